"""Trainings of the text model on chosen texts, by the pipeline's own code, for the benchmarks of retraining."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from evergreen.params import Params
from evergreen.text.export import export_bundle, predict_torch
from evergreen.text.model import hash_weights
from evergreen.text.training import TrainingResult, train

DATA = Path("data/text")
WEIGHTS = Path("models/text-weights")
COLUMNS = ["id", "text", "label", "observed_at", "topic"]


@dataclass(frozen=True)
class Corpus:
    """What one training reads; `new` is observed after all of `old`."""

    old: pd.DataFrame
    new: pd.DataFrame
    validation: pd.DataFrame
    test: pd.DataFrame

    def write(self, folder: Path) -> None:
        """As `preprocess` writes it."""
        folder.mkdir(parents=True, exist_ok=True)
        tables = {"train": pd.concat([self.old, self.new]), "validation": self.validation, "test": self.test}
        for split, rows in tables.items():
            rows[COLUMNS].reset_index(drop=True).to_parquet(folder / f"{split}.parquet")


def read_split(name: str) -> pd.DataFrame:
    """A split of the prepared corpus."""
    return pd.read_parquet(DATA / f"{name}.parquet", columns=COLUMNS)


def retrain(
    params: Params, corpus: Corpus, folder: Path, champion: Path | None = None, **changes: Any
) -> TrainingResult:
    """Train on a corpus, warm from a champion's weights or anew, and leave the weights in `folder/weights`.

    Args:
        champion: folder of weights that a training wrote.
        changes: of `params.train`.
    """
    settings = params.train.model_copy(update={"warm_start": str(champion) if champion else None} | changes)
    corpus.write(folder / "data")
    result = train(settings, params.data.labels or [], params.seed, folder / "data", folder / "checkpoints")
    result.remove_checkpoints()
    result.save_pretrained(folder / "weights")
    return result


def export(result: TrainingResult, params: Params, folder: Path) -> Path:
    """Export what `retrain` left as a float32 bundle, which takes no calibration; its folder."""
    params = params.model_copy(update={"export": params.export.model_copy(update={"quantize": "none"})})
    export_bundle(result, hash_weights(folder / "weights"), params, folder / "data", folder / "bundle")
    shutil.rmtree(folder / "data")
    return folder / "bundle"


def score(result: TrainingResult, rows: pd.DataFrame, params: Params) -> float:
    """Accuracy on labeled texts."""
    logits = predict_torch(result, rows["text"].tolist(), params.train.max_length, params.evaluate.batch_size)
    return float((logits.argmax(1) == [result.labels.index(label) for label in rows["label"]]).mean())
