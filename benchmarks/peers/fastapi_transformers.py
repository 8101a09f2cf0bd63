"""Peer: FastAPI with a transformers pipeline and torch, the float weights that the bundle was exported from."""

import os
from pathlib import Path

import torch
from fastapi import FastAPI
from pydantic import BaseModel
from safetensors.torch import load_file
from transformers import pipeline

torch.set_num_threads(int(os.environ["THREADS"]))
weights, labels = Path(os.environ["WEIGHTS"]), ["negative", "neutral", "positive"]
encoder = pipeline("feature-extraction", str(weights), tokenize_kwargs={"truncation": True, "max_length": 96})
head = load_file(weights / "head.safetensors")
app = FastAPI()


class Request(BaseModel):
    """One text."""

    text: str


@app.post("/v1/classify")
def classify(request: Request) -> dict[str, object]:
    """Predict it: the mean over the tokens, then the linear head."""
    with torch.inference_mode():
        embedding = encoder(request.text, return_tensors=True)[0].mean(0)
        y_proba = torch.softmax(head["weight"] @ embedding + head["bias"], 0).tolist()
    return {"label": labels[y_proba.index(max(y_proba))], "probabilities": dict(zip(labels, y_proba, strict=True))}
