"""Error maps on disk: what is read is what was written, and half a file is none."""

import numpy as np
import pytest

from evergreen.params import ReconstructionParams
from evergreen.video.clips import VideoError
from evergreen.video.features import read_features, write_features
from evergreen.video.reconstruction import Reconstructor
from evergreen.video.sequences import Sequence

ALPHAS = np.linspace(0.999, 0.001, 1000, dtype=np.float32)
PARAMS = ReconstructionParams(
    method="one_step", timesteps=[50, 200], noise_draws=1, ddim_steps=5, ddim_depth=100, batch_size=4
)


def make_sequence(name: str, frames: int, lead: int) -> Sequence:
    rng = np.random.default_rng(frames)
    images = rng.integers(0, 255, (lead + frames, 8, 12, 1)).astype(np.uint8)
    mask = np.arange(frames) % 3 == 0
    return Sequence(name, name, "train", "patch", 25.0, images[:lead], images[lead:], mask)


@pytest.fixture
def reconstructor() -> Reconstructor:
    def predict(inputs: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        return inputs[:, -1:] * 0.5 + inputs[:, :1] * 0.1

    return Reconstructor(predict, ALPHAS, [-2], None, PARAMS)


def test_error_maps_are_read_as_they_were_written(tmp_path, reconstructor):
    sequences = [make_sequence("a", 21, 4), make_sequence("b", 5, 0)]
    stats = write_features(iter(sequences), reconstructor, tmp_path / "new/features.h5")
    assert (stats.n_sequences, stats.n_frames, stats.n_anomalous) == (2, 26, 9)
    for sequence, stored in zip(sequences, read_features(tmp_path / "new/features.h5"), strict=True):
        assert (stored.name, stored.split, stored.kind) == (sequence.name, "train", "patch")
        assert np.array_equal(stored.mask, sequence.mask)
        errors = np.concatenate(list(stored))
        whole = np.stack(list(reconstructor(np.concatenate([sequence.lead, sequence.images]))))
        assert errors.shape == (len(sequence.mask), 2, 8, 12)
        assert errors == pytest.approx(whole[len(sequence.lead) :], rel=1e-3, abs=1e-6)


def test_a_failure_half_way_leaves_what_was_there(tmp_path, reconstructor):
    path = tmp_path / "features.h5"
    write_features([make_sequence("a", 5, 0)], reconstructor, path)

    def fail():
        yield make_sequence("b", 5, 0)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_features(fail(), reconstructor, path)
    assert [stored.name for stored in read_features(path)] == ["a"]


def test_another_file_is_refused_by_name(tmp_path):
    (tmp_path / "features.h5").write_text("no")
    with pytest.raises(VideoError, match=r"features\.h5: no file of error maps"):
        list(read_features(tmp_path / "features.h5"))
