"""Peer: LitServe as it comes, with its fast queue and batching, to see what our shorter way to the workers saves."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import litserve

from evergreen.text.runtime import Classifier, Prediction


class Texts(litserve.LitAPI):
    """The classifier, a worker a core."""

    def setup(self, _device: str) -> None:
        """Load the bundle in each worker."""
        self.classifier = Classifier.load(os.environ["BUNDLE"], num_threads=1)

    def decode_request(self, request: dict[str, str]) -> str:
        """Take the text."""
        return request["text"]

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """Predict what was waiting."""
        return self.classifier.predict(list(texts))

    def encode_response(self, prediction: Prediction) -> dict[str, Any]:
        """Write the answer."""
        return {"label": prediction.label, "probabilities": prediction.probabilities}


if __name__ == "__main__":
    api = Texts(api_path="/v1/classify", max_batch_size=16, batch_timeout=0.0)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=2, fast_queue=True)
    port = int(sys.argv[1])
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="warning")
