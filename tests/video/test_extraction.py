"""Which checkpoint the diffusion model resumes from: only one of the same training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from footage import reduce_params

from evergreen.video.extraction import _compute_fingerprint

FRAMES = np.zeros((4, 8, 8, 3), np.uint8)


def compute(frames: np.ndarray = FRAMES, **changes: object) -> str:
    params = reduce_params()
    return _compute_fingerprint(
        params.model_copy(update={"diffusion": params.diffusion.model_copy(update=changes)}), frames
    )


def test_another_training_has_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    fingerprints = [compute(), compute(FRAMES + 1), compute(FRAMES.reshape(4, 4, 16, 3)), compute(batch_size=3)]
    monkeypatch.setattr(torch, "__version__", "99.0.0")
    fingerprints.append(compute())
    assert len(set(fingerprints)) == len(fingerprints)


def test_the_fingerprint_covers_the_starting_weights(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    fingerprints = [compute(base_model=str(tmp_path))]
    for name, content in (("unet/weights", b"one"), ("unet/weights", b"two"), ("weights", b"two")):
        (tmp_path / name).write_bytes(content)
        fingerprints.append(compute(base_model=str(tmp_path)))
    assert len(set(fingerprints)) == len(fingerprints)
