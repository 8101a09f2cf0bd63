"""Peer: `mlflow models serve`. Writes the model to the folder that is its argument."""

import os
import sys
from typing import Any

import mlflow
import mlflow.pyfunc


class Texts(mlflow.pyfunc.PythonModel):
    """The classifier as a pyfunc model."""

    def load_context(self, context: Any) -> None:
        """Load the bundle in each worker."""
        from evergreen.text.runtime import Classifier  # noqa: PLC0415 - in the workers only

        self.classifier = Classifier.load(context.artifacts["bundle"], num_threads=1)

    def predict(self, _context: Any, model_input: list[str]) -> list[dict[str, float]]:
        """Predict the texts of a request."""
        return [prediction.probabilities for prediction in self.classifier.predict(list(model_input))]


if __name__ != "__main__":  # mlflow runs this file to get the model
    mlflow.models.set_model(Texts())
else:
    mlflow.pyfunc.save_model(
        sys.argv[1],
        python_model=__file__,
        artifacts={"bundle": os.environ["BUNDLE"]},
        input_example=["Thanks for the quick rebooking!"],
        pip_requirements=[],
    )
