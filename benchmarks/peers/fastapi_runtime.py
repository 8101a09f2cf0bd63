"""Peer: FastAPI over our own runtime, as a good engineer writes it in an hour. THREADS is per process."""

import os

from fastapi import FastAPI
from pydantic import BaseModel

from evergreen.text.runtime import Classifier

classifier = Classifier.load(os.environ["BUNDLE"], num_threads=int(os.environ["THREADS"]))
app = FastAPI()


class Request(BaseModel):
    """One text."""

    text: str


@app.post("/v1/classify")
def classify(request: Request) -> dict[str, object]:
    """Predict it, on one of FastAPI's threads."""
    prediction = classifier(request.text)
    return {"label": prediction.label, "probabilities": prediction.probabilities}
