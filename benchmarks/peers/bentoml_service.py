"""Peer: BentoML, a worker a core, its adaptive batching."""

import os

import bentoml

from evergreen.text.runtime import Classifier


@bentoml.service(workers=2, traffic={"timeout": 30})
class Texts:
    """The classifier."""

    def __init__(self) -> None:
        self.classifier = Classifier.load(os.environ["BUNDLE"], num_threads=1)

    @bentoml.api(batchable=True, max_batch_size=16, max_latency_ms=200, route="/v1/classify")
    def classify(self, texts: list[str]) -> list[dict[str, float]]:
        """Predict what was batched."""
        return [prediction.probabilities for prediction in self.classifier.predict(texts)]
