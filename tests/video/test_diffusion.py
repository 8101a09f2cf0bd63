"""The diffusion model: it learns, it resumes to the same weights, it takes any resolution."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from full_disk import limit_file_size

from evergreen.full_disk import explain_full_disk
from evergreen.params import ClipParams, DiffusionParams
from evergreen.video.clips import VideoError
from evergreen.video.context import stack_context, to_model
from evergreen.video.diffusion import Denoiser, _save, create_denoiser, train_denoiser

pytestmark = pytest.mark.slow
CLIPS = ClipParams(height=24, width=40, color=False, window=8, stride=4)


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
    """Twelve gray frames of a moving bar with their context, [12, 24, 40, 3]."""
    images = np.zeros((12, 24, 40, 1), np.uint8)
    for number, image in enumerate(images):
        image[:, 2 * number : 2 * number + 6] = 255
    return np.stack(list(stack_context(images, [-4, -2], None)))


def weights(denoiser: Denoiser) -> torch.Tensor:
    return torch.cat([value.flatten() for value in denoiser.unet.state_dict().values()])


def test_it_learns(frames: np.ndarray, tmp_path: Path) -> None:
    _, losses = train_denoiser(frames, params(steps=80), CLIPS, 7, tmp_path)
    assert np.mean(losses[-20:]) < 0.6 * np.mean(losses[:5])


def test_an_interrupted_training_ends_in_the_same_weights(frames: np.ndarray, tmp_path: Path) -> None:
    whole, losses = train_denoiser(frames, params(), CLIPS, 7, tmp_path / "whole")

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
            train_denoiser(frames, params(), CLIPS, 7, tmp_path / "part")
    resumed, again = train_denoiser(frames, params(), CLIPS, 7, tmp_path / "part")
    assert len(losses) == len(again) == 12
    assert torch.equal(weights(whole), weights(resumed))
    other, _ = train_denoiser(frames, params(), CLIPS, 8, tmp_path / "other")
    assert not torch.equal(weights(whole), weights(other))


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_a_checkpoint_that_was_cut_off_costs_its_steps_and_no_more(
    keep: float, frames: np.ndarray, tmp_path: Path
) -> None:
    whole, losses = train_denoiser(frames, params(), CLIPS, 7, tmp_path)
    file = tmp_path / "state.pt"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    again, same = train_denoiser(frames, params(), CLIPS, 7, tmp_path)
    assert losses == same
    assert torch.equal(weights(whole), weights(again))


def test_a_full_disk_leaves_the_checkpoint_before(frames: np.ndarray, tmp_path: Path) -> None:
    train_denoiser(frames, params(), CLIPS, 7, tmp_path)
    before = (tmp_path / "state.pt").read_bytes()
    with limit_file_size(len(before) // 2), pytest.raises(RuntimeError) as caught:
        _save(tmp_path, {"unet": torch.nn.Linear(500, 500)}, 99, [])
    assert str(tmp_path / "state.partial") in (explain_full_disk(caught.value) or "")
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert (tmp_path / "state.pt").read_bytes() == before


@pytest.mark.parametrize("steps", [1, 2, 10, 11])
def test_few_steps_are_steps(frames: np.ndarray, tmp_path: Path, steps: int) -> None:
    _, losses = train_denoiser(frames, params(steps=steps), CLIPS, 7, tmp_path)
    assert len(losses) == steps


def test_only_noise_levels_below_the_highest_are_learned(
    frames: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[int] = []
    velocity = DDPMScheduler.get_velocity

    def remember(self: DDPMScheduler, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> object:
        learned.extend(timesteps.tolist())
        return velocity(self, clean, noise, timesteps)

    monkeypatch.setattr(DDPMScheduler, "get_velocity", remember)
    train_denoiser(frames, params(max_timestep=30), CLIPS, 7, tmp_path / "low")
    assert len(learned) == 48
    assert 20 < max(learned) < 30
    learned.clear()
    train_denoiser(frames, params(), CLIPS, 7, tmp_path / "all")
    assert max(learned) > 900


@pytest.fixture
def crops(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The crops that trainings draw, newest frame last."""
    drawn: list[np.ndarray] = []

    def remember(images: np.ndarray) -> np.ndarray:
        drawn.extend(images)
        return to_model(images)

    monkeypatch.setattr("evergreen.video.diffusion.to_model", remember)
    return drawn


def test_crops_are_drawn_where_something_moves(crops: list[np.ndarray], tmp_path: Path) -> None:
    frames = np.full((5, 40, 60, 3), 100, np.uint8)
    frames[3, 28:32, 4:8, -1] = 200
    train_denoiser(frames, params(moving_crops=1.0, steps=10), CLIPS, 7, tmp_path / "moving")
    assert len(crops) == 40
    assert all(crop[..., -1].max() == 200 for crop in crops)
    assert all((crop[..., :-1] == 100).all() for crop in crops)
    crops.clear()
    train_denoiser(frames, params(steps=10), CLIPS, 7, tmp_path / "anywhere")
    assert sum(crop.max() == 200 for crop in crops) < 10


@pytest.mark.parametrize(("context", "channels"), [([], 1), ([-4, -2], 3)])
def test_what_does_not_move_is_drawn_evenly(
    context: list[int], channels: int, crops: list[np.ndarray], tmp_path: Path
) -> None:
    still = np.full((5, 40, 60, channels), 100, np.uint8)
    train_denoiser(still, params(moving_crops=1.0, context=context, steps=2), CLIPS, 7, tmp_path)
    assert {crop.shape for crop in crops} == {(16, 16, channels)}


def test_half_of_the_crops_are_mirrored_with_their_context(crops: list[np.ndarray], tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(60, dtype=np.uint8)[:, None], (5, 40, 60, 3))
    train_denoiser(ramp, params(mirror=True, steps=20), CLIPS, 7, tmp_path)
    rising = [set(np.diff(crop.astype(int), axis=1).ravel()) for crop in crops]
    assert all(step in ({1}, {-1}) for step in rising)
    assert 20 < sum(step == {-1} for step in rising) < 60


def test_no_steps_leave_an_untrained_model_that_runs(frames: np.ndarray, tmp_path: Path) -> None:
    denoiser, losses = train_denoiser(frames, params(steps=0), CLIPS, 7, tmp_path)
    assert losses == []
    with torch.inference_mode():
        assert denoiser(torch.from_numpy(to_model(frames[:2])), torch.tensor([5, 500])).shape == (2, 1, 24, 40)


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


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample"])
def test_a_model_of_another_kind_gives_the_velocity_too(prediction_type: str, tmp_path: Path) -> None:
    unet = Denoiser.create(params(context=[]), 1).unet
    scheduler = DDPMScheduler(prediction_type=prediction_type)
    unet.save_pretrained(tmp_path)  # as on the hub: without folders
    scheduler.save_pretrained(tmp_path)
    denoiser = create_denoiser(params(base_model=str(tmp_path), context=[]), CLIPS)
    assert isinstance(denoiser.unet, UNet2DModel)
    noised, timesteps = torch.randn(2, 1, 24, 40), torch.tensor([30, 700])
    with torch.inference_mode():
        velocity = denoiser(noised, timesteps)
        output = unet(noised, timesteps).sample
    signal, spread = (part.sqrt()[:, None, None, None] for part in (
        scheduler.alphas_cumprod[timesteps], 1 - scheduler.alphas_cumprod[timesteps]
    ))  # fmt: skip
    clean, noise = signal * noised - spread * velocity, spread * noised + signal * velocity
    expected = noise if prediction_type == "epsilon" else clean
    assert torch.allclose(output, expected, atol=1e-4)


def test_a_loaded_model_is_trained_on(frames: np.ndarray, tmp_path: Path) -> None:
    Denoiser.create(params(context=[]), 1).save(tmp_path / "hub")
    alone = frames[..., -1:]
    changes = {"base_model": str(tmp_path / "hub"), "context": [], "steps": 30}
    _, losses = train_denoiser(alone, params(**changes), CLIPS, 7, tmp_path / "checkpoints")
    assert np.mean(losses[-10:]) < np.mean(losses[:5])


@pytest.mark.parametrize(
    ("changes", "match"),
    [({"color": True}, "takes 1 channels, the frames have 3"), ({"height": 25}, "sizes that 2 divides")],
)
def test_a_loaded_model_that_does_not_fit_is_refused(changes: dict[str, object], match: str, tmp_path: Path) -> None:
    Denoiser.create(params(context=[]), 1).save(tmp_path)
    with pytest.raises(VideoError, match=match):
        create_denoiser(params(base_model=str(tmp_path), context=[]), CLIPS.model_copy(update=changes))


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=str(tmp_path)):
        create_denoiser(params(base_model=str(tmp_path), context=[]), CLIPS)
