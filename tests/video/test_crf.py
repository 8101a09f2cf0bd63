"""The chain of labels: exact, whatever the length, and what it does to one frame and to a run."""

from itertools import pairwise, product

import numpy as np
import pytest
import torch

from evergreen.video.crf import LinearChainCrf

RATE = 0.05


def sum_paths(logits: np.ndarray) -> np.ndarray:
    """Log odds of each frame's label, from all sequences of labels."""
    frames = len(logits)
    odds = np.zeros((frames, 2))
    for path in product((0, 1), repeat=frames):
        changes = sum(a != b for a, b in pairwise(path))
        weight = RATE**changes * (1 - RATE) ** (frames - 1 - changes) * np.exp(np.dot(path, logits))
        for frame, label in enumerate(path):
            odds[frame, label] += weight
    return np.log(odds[:, 1] / odds[:, 0])


def run(logits: list[float] | np.ndarray, bidirectional: bool = True) -> np.ndarray:
    return LinearChainCrf(RATE, bidirectional)(torch.tensor(np.asarray(logits)[None], dtype=torch.float32))[0].numpy()


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 11])
def test_it_weighs_all_sequences_of_labels(frames):
    logits = np.random.default_rng(frames).normal(0, 2, frames)
    assert run(logits) == pytest.approx(sum_paths(logits), abs=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 3, 8, 11])
def test_in_a_stream_it_weighs_what_was(frames):
    logits = np.random.default_rng(frames).normal(0, 2, frames)
    expected = [sum_paths(logits[: end + 1])[-1] for end in range(frames)]
    assert run(logits, bidirectional=False) == pytest.approx(expected, abs=1e-4)


def test_long_windows_and_sure_frames_stay_finite():
    logits = np.repeat([-50.0, 50.0], 500)
    log_odds = run(logits)
    assert np.isfinite(log_odds).all()
    assert ((log_odds > 0) == (logits > 0)).all()


def test_one_frame_is_not_believed_and_a_run_is():
    assert run([-1] * 10 + [2] + [-1] * 10)[10] < 0
    assert (run([-1] * 10 + [2] * 5 + [-1] * 10)[10:15] > 0).all()
