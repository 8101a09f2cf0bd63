"""Reconstruction: by hand, and on models whose answer is known."""

import numpy as np
import pytest

from evergreen.params import ReconstructionParams
from evergreen.video.reconstruction import Reconstructor, reconstruct

# The squared cosine schedule (Nichol and Dhariwal, 2021).
ANGLES = (np.linspace(0, 1, 1001)[1:] + 0.008) / 1.008 * np.pi / 2
ALPHAS = np.clip(np.cos(ANGLES) ** 2, 1e-6, 1).astype(np.float32)


def params(**changes: object) -> ReconstructionParams:
    values = {"method": "one_step", "timesteps": [20, 100], "noise_draws": 2, "ddim_steps": 50, "ddim_depth": 500}
    values["batch_size"] = 2
    return ReconstructionParams.model_validate(values | changes)


@pytest.fixture
def frames() -> np.ndarray:
    """Three frames of two channels, each beside two predecessors, [3, 6, 8, 12]."""
    return np.random.default_rng(1).uniform(-1, 1, (3, 6, 8, 12)).astype(np.float32)


def recall(clean: np.ndarray, seen: list[np.ndarray]):
    """A model that knows the clean frames, and so predicts the true velocity."""

    def predict(inputs: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        seen.append(inputs)
        alpha = ALPHAS[timesteps][:, None, None, None]
        noise = (inputs[:, -2:] - np.sqrt(alpha) * clean) / np.sqrt(1 - alpha)
        return (np.sqrt(alpha) * noise - np.sqrt(1 - alpha) * clean).astype(np.float32)

    return predict


@pytest.mark.parametrize("method", ["one_step", "ddim"])
def test_a_model_that_knows_the_frame_leaves_no_error(frames, method):
    seen: list[np.ndarray] = []
    errors = reconstruct(frames, 2, recall(frames[:, -2:], seen), ALPHAS, params(method=method))
    assert errors.shape == (3, 2 if method == "one_step" else 1, 8, 12)
    assert errors.max() < 1e-4
    assert all(np.array_equal(inputs[:, :4], frames[:, :4]) for inputs in seen)  # the context stays clean


def test_the_error_is_where_the_model_errs(frames):
    remembered = frames[:, -2:].copy()
    remembered[1, :, 2:4, 5:9] += 0.5
    errors = reconstruct(frames, 2, recall(remembered, []), ALPHAS, params())
    assert errors[1, :, 2:4, 5:9] == pytest.approx(0.25, abs=1e-3)
    errors[1, :, 2:4, 5:9] = 0
    assert errors.max() < 1e-4


def test_inversion_returns_standard_normal_noise_to_itself():
    # For data of unit variance the best velocity is zero everywhere.
    noise = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    still = lambda inputs, _: np.zeros_like(inputs)  # noqa: E731
    coarse, fine = (reconstruct(noise, 1, still, ALPHAS, params(method="ddim", ddim_steps=n)) for n in (10, 100))
    assert fine.mean() < 0.1 * coarse.mean() < 0.05


@pytest.mark.parametrize(("steps", "depth"), [(20, 200), (20, 50), (7, 1000)])
def test_ddim_takes_its_steps_forth_and_back_below_its_depth(frames, steps, depth):
    taken: list[int] = []

    def predict(inputs: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        taken.append(int(timesteps[0]))
        return np.zeros_like(inputs[:, -2:])

    reconstruct(frames, 2, predict, ALPHAS, params(method="ddim", ddim_steps=steps, ddim_depth=depth))
    assert len(taken) == 2 * steps
    assert taken == taken[::-1]
    assert taken[:steps] == list(range(0, depth // steps * steps, depth // steps))


@pytest.mark.parametrize("method", ["one_step", "ddim"])
def test_a_frame_has_one_error_alone_and_in_a_batch(frames, method):
    def predict(inputs: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        return np.tanh(inputs[:, -2:] + inputs[:, :2] * timesteps[:, None, None, None] / 1000)

    together = reconstruct(frames, 2, predict, ALPHAS, params(method=method))
    alone = np.concatenate(
        [reconstruct(frames[n : n + 1], 2, predict, ALPHAS, params(method=method)) for n in range(3)]
    )
    assert together == pytest.approx(alone, abs=1e-6)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_frames_are_reconstructed_as_they_come(batch_size):
    def predict(inputs: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
        return np.tanh(inputs[:, -1:] + inputs[:, :1])

    images = np.random.default_rng(0).integers(0, 255, (7, 8, 12, 1)).astype(np.uint8)
    reconstructor = Reconstructor(predict, ALPHAS, [-2], None, params(batch_size=batch_size))
    errors = list(reconstructor(iter(images)))
    reference = list(Reconstructor(predict, ALPHAS, [-2], None, params(batch_size=7))(images))
    assert len(errors) == 7
    assert errors[0].shape == (2, 8, 12)
    assert np.array(errors) == pytest.approx(np.array(reference), abs=1e-6)


def test_fewer_frames_are_read_ahead_than_a_batch_holds():
    read = []

    def frames():
        for number in range(9):
            read.append(number)
            yield np.zeros((8, 12, 1), np.uint8)

    errors = Reconstructor(lambda inputs, _: inputs[:, -1:], ALPHAS, [], None, params())(frames())
    next(errors)
    assert read == [0, 1]
