"""An easy corpus: one word of the text decides the label."""

from pathlib import Path

import numpy as np
import pandas as pd

LABELS = ["negative", "neutral", "positive"]
WORDS = {"negative": "late lost", "neutral": "gate seat", "positive": "thanks love"}


def write(folder: Path, sizes: dict[str, int]) -> Path:
    """Write so many texts for each split."""
    rng = np.random.default_rng(0)
    for split, size in sizes.items():
        labels = rng.choice(LABELS, size)
        texts = [" ".join(["the flight", *rng.choice(WORDS[label].split(), rng.integers(1, 8))]) for label in labels]
        pd.DataFrame(
            {
                "id": [str(i) for i in range(size)],
                "text": texts,
                "label": labels,
                "observed_at": pd.date_range("2026-01-01", periods=size, freq="h", tz="UTC").as_unit("us"),
                "topic": "airline",
            }
        ).to_parquet(folder / f"{split}.parquet", index=False)
    return folder
