"""Peer: Ray Serve, a replica a core, its batching. The port is its argument."""

import os
import sys
from typing import Any

from ray import serve
from starlette.requests import Request

from evergreen.text.runtime import Classifier


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1}, max_ongoing_requests=64)
class Texts:
    """The classifier."""

    def __init__(self, bundle: str) -> None:
        self.classifier = Classifier.load(bundle, num_threads=1)

    @serve.batch(max_batch_size=16, batch_wait_timeout_s=0.0)
    async def predict(self, texts: list[str]) -> list[dict[str, float]]:
        """Predict what was batched."""
        return [prediction.probabilities for prediction in self.classifier.predict(texts)]

    async def __call__(self, request: Request) -> Any:
        """Answer a request."""
        return await self.predict((await request.json())["text"])


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Texts.bind(os.environ["BUNDLE"]), route_prefix="/v1/classify", blocking=True)
