"""The diffusion model: it learns, it resumes to the same weights, it takes any resolution."""

from pathlib import Path

import numpy as np
import pytest
import torch

from evergreen.params import DiffusionParams
from evergreen.video.diffusion import Denoiser, stack_context, to_model, train_denoiser

pytestmark = pytest.mark.slow


def params(**changes: object) -> DiffusionParams:
    values = {
        "context": [-4, -2],
        "channels": [8, 16],
        "layers_per_block": 1,
        "num_train_timesteps": 1000,
        "steps": 12,
        "batch_size": 4,
        "crop_size": 16,
        "learning_rate": 2e-3,
        "ema_decay": 0.9,
        "checkpoint_steps": 5,
    }
    return DiffusionParams.model_validate(values | changes)


@pytest.fixture
def frames() -> np.ndarray:
    """Twelve gray frames of a moving bar with their context, [12, 3, 24, 40]."""
    images = np.zeros((12, 24, 40, 1), np.uint8)
    for number, image in enumerate(images):
        image[:, 2 * number : 2 * number + 6] = 255
    return stack_context(to_model(images), [-4, -2])


def test_frames_are_scaled_and_stacked_with_their_predecessors() -> None:
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1).repeat(4, 2) * 51
    stacked = stack_context(to_model(images), [-4, -2])
    assert stacked.shape == (5, 3, 1, 4)
    numbers = ((stacked[:, :, 0, 0] + 1) * 2.5).round().astype(int)
    assert numbers.tolist() == [[0, 0, 0], [0, 0, 1], [0, 0, 2], [0, 1, 3], [0, 2, 4]]


def weights(denoiser: Denoiser) -> torch.Tensor:
    return torch.cat([value.flatten() for value in denoiser.unet.state_dict().values()])


def test_it_learns(frames: np.ndarray, tmp_path: Path) -> None:
    _, losses = train_denoiser(frames, params(steps=80), 7, tmp_path, progress=False)
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])


def test_an_interrupted_training_ends_in_the_same_weights(frames: np.ndarray, tmp_path: Path) -> None:
    whole, losses = train_denoiser(frames, params(), 7, tmp_path / "whole", progress=False)

    class StopError(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        calls = []

        def stop(*args: object) -> torch.Tensor:
            calls.append(args)
            if len(calls) == 8:
                raise StopError
            return torch.nn.functional.mse_loss(*args)  # type: ignore[arg-type]

        patch.setattr("evergreen.video.diffusion.mse_loss", stop)
        with pytest.raises(StopError):
            train_denoiser(frames, params(), 7, tmp_path / "part", progress=False)
    resumed, again = train_denoiser(frames, params(), 7, tmp_path / "part", progress=False)
    assert len(losses) == len(again) == 12
    assert torch.equal(weights(whole), weights(resumed))
    other, _ = train_denoiser(frames, params(), 8, tmp_path / "other", progress=False)
    assert not torch.equal(weights(whole), weights(other))


def test_no_steps_leave_an_untrained_model_that_runs(frames: np.ndarray, tmp_path: Path) -> None:
    denoiser, losses = train_denoiser(frames, params(steps=0), 7, tmp_path, progress=False)
    assert losses == []
    with torch.inference_mode():
        assert denoiser(torch.from_numpy(frames[:2]), torch.tensor([5, 500])).shape == (2, 1, 24, 40)


@pytest.mark.parametrize("size", [(16, 16), (24, 40), (50, 30)])
def test_it_takes_any_size_that_its_levels_divide(size: tuple[int, int]) -> None:
    denoiser = Denoiser.create(params(), 1)
    with torch.inference_mode():
        assert denoiser(torch.zeros(1, 3, *size), torch.tensor([5])).shape == (1, 1, *size)


def test_a_saved_model_is_loaded_again(tmp_path: Path) -> None:
    denoiser = Denoiser.create(params(), 1)
    denoiser.save(tmp_path)
    again = Denoiser.load(tmp_path)
    assert torch.equal(weights(denoiser), weights(again))
    assert again.scheduler.config.prediction_type == "v_prediction"
