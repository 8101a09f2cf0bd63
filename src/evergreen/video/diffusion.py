"""The diffusion model of normal frames: a small `UNet2DModel` that denoises a frame beside its clean predecessors."""

import zipfile
from pathlib import Path
from typing import Any, Self

import cv2
import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from evergreen.files import open_whole
from evergreen.logs import get_logger
from evergreen.params import ClipParams, DiffusionParams
from evergreen.progress import show_progress
from evergreen.sources import resolve
from evergreen.video.clips import VideoError
from evergreen.video.context import to_model

log = get_logger(__name__)
_WARM_UP = 0.1
"""Fraction of the steps in which the learning rate rises."""
_CELL = 4
"""Pixels; of such cells is known how much they move."""


class Denoiser(nn.Module):
    """A U-Net with its noise schedule; gives the velocity of the newest frame (Salimans and Ho, ICLR 2022)."""

    def __init__(self, unet: UNet2DModel, scheduler: DDPMScheduler) -> None:
        super().__init__()
        self.unet, self.scheduler = unet, scheduler
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone(), persistent=False)

    @classmethod
    def create(cls, params: DiffusionParams, channels: int) -> Self:
        """An untrained model: input the noised newest frame and its clean predecessors, output the newest frame."""
        unet = UNet2DModel(
            in_channels=channels * (1 + len(params.context)),
            out_channels=channels,
            block_out_channels=tuple(params.channels),
            down_block_types=("DownBlock2D",) * len(params.channels),
            up_block_types=("UpBlock2D",) * len(params.channels),
            layers_per_block=params.layers_per_block,
            norm_num_groups=8,
            add_attention=False,  # fully convolutional, so that any resolution works
        )
        scheduler = DDPMScheduler(
            num_train_timesteps=params.num_train_timesteps,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction",
            clip_sample=False,
        )
        return cls(unet, scheduler)

    def forward(self, frames: Tensor, timesteps: Tensor) -> Tensor:
        """Velocity, [batch, channels, height, width].

        Args:
            frames: [batch, channels · (1 + context), height, width], the noised newest frame last.
            timesteps: [batch].
        """
        output: Tensor = self.unet(frames, timesteps).sample
        kind = self.scheduler.config.prediction_type
        if kind == "v_prediction":
            return output
        alphas_cumprod = self.alphas_cumprod[timesteps][:, None, None, None]
        signal, spread = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
        noised = frames[:, -output.shape[1] :]
        if kind == "epsilon":
            return (output - spread * noised) / signal
        return (signal * noised - output) / spread  # of a model that predicts the clean frame

    def save(self, folder: Path) -> None:
        """Write a folder that diffusers reads."""
        self.unet.save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder that `save`, or diffusers for an unconditional pipeline or model, wrote.

        Raises:
            VideoError: when it holds no such model.
        """
        nested = (folder / "unet").is_dir()
        try:
            unet = UNet2DModel.from_pretrained(folder, subfolder="unet" if nested else None)
            scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler" if nested else None)
        except (OSError, ValueError) as error:
            raise VideoError(
                f"{folder}: no unconditional diffusers model ({error}). Name one with a UNet2DModel."
            ) from (error)
        return cls(unet.eval(), scheduler)


def has_fast_bfloat16() -> bool:
    """Whether torch computes in bfloat16 faster than in float32: on a GPU, or a processor with units for it."""
    return torch.cuda.is_available() or bool(torch.cpu.get_capabilities().get("amx_bf16"))


def create_denoiser(params: DiffusionParams, clips: ClipParams) -> Denoiser:
    """Create or load the model that `params` name.

    Raises:
        VideoError: when a loaded model doesn't fit the frames.
    """
    channels = 3 if clips.color else 1
    if params.base_model is None:
        return Denoiser.create(params, channels)
    denoiser = Denoiser.load(resolve(params.base_model))
    config = denoiser.unet.config
    if config.in_channels != channels:
        raise VideoError(
            f"{params.base_model}: takes {config.in_channels} channels, the frames have {channels}. "
            f"Set clips.color to {str(config.in_channels == 3).lower()}, or name another model."
        )
    factor = 2 ** (len(config.block_out_channels) - 1)
    if clips.height % factor or clips.width % factor:
        raise VideoError(
            f"{params.base_model}: takes sizes that {factor} divides, clips.height and width are {clips.height} and "
            f"{clips.width}. Change them."
        )
    return denoiser


def train_denoiser(
    frames: NDArray[np.uint8], params: DiffusionParams, clips: ClipParams, seed: int, checkpoints: Path
) -> tuple[Denoiser, list[float]]:
    """Train on random crops of normal frames, resuming from the last checkpoint; return the averaged model and losses.

    Args:
        frames: with their context, [frames, height, width, channels · (1 + context)].
        checkpoints: a folder of this training alone; what a step draws depends on seed and step only, so a resumed
            training ends in the same weights.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mixed = has_fast_bfloat16()
    denoiser = create_denoiser(params, clips)
    channels = denoiser.unet.config.out_channels
    max_timestep = min(params.max_timestep or params.num_train_timesteps, len(denoiser.alphas_cumprod))
    motion = _measure_motion(frames, channels) if params.moving_crops else None
    denoiser.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(denoiser.unet.parameters(), lr=params.learning_rate)
    steps = max(params.steps, 2 * round(1 / _WARM_UP))  # of fewer, no step would be left for the warm-up
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, params.learning_rate, steps, pct_start=_WARM_UP)
    ema = EMAModel(denoiser.unet.parameters(), decay=params.ema_decay, use_ema_warmup=True, power=0.75)
    state = {"unet": denoiser.unet, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    start, losses = _resume(checkpoints, state)
    progress = show_progress(range(start, params.steps), "diffusion", initial=start, total=params.steps)
    for step in progress:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        batch = _crop(frames, motion, params, generator).to(device)
        clean = batch[:, -channels:]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = torch.randint(0, max_timestep, (len(batch),), generator=generator).to(device)
        noised = denoiser.scheduler.add_noise(clean, noise, timesteps)
        target = _get_target(denoiser.scheduler, clean, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            output = denoiser.unet(torch.cat([batch[:, :-channels], noised], 1), timesteps).sample
        loss = mse_loss(output.float(), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(denoiser.unet.parameters())
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
        if (step + 1) % params.checkpoint_steps == 0:
            _save(checkpoints, state, step + 1, losses)
    ema.copy_to(denoiser.unet.parameters())
    denoiser.cpu().eval()
    return denoiser, losses


def _get_target(scheduler: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        velocity: Tensor = scheduler.get_velocity(clean, noise, timesteps)
        return velocity
    return noise if kind == "epsilon" else clean


def _measure_motion(frames: NDArray[np.uint8], channels: int) -> NDArray[np.float64] | None:
    """Running sum of the squared change since each frame's first predecessor, [frames, rows, columns] of cells.

    None where nothing moves, as without predecessors.
    """
    if frames.shape[-1] == channels:
        return None
    size = frames.shape[2] // _CELL, frames.shape[1] // _CELL
    changes = (np.square(f[..., -1].astype(np.float32) - f[..., channels - 1]) for f in frames)
    cells = np.stack([cv2.resize(change, size, interpolation=cv2.INTER_AREA) for change in changes])
    return np.cumsum(cells, dtype=np.float64).reshape(cells.shape) if cells.any() else None


def _crop(
    frames: NDArray[np.uint8], motion: NDArray[np.float64] | None, params: DiffusionParams, generator: torch.Generator
) -> Tensor:
    """Draw crops anywhere, and a part of them where `motion` grows; half of them may be mirrored."""
    count = params.batch_size
    height, width = (min(params.crop_size, size) for size in frames.shape[1:3])
    last = frames.shape[1] - height, frames.shape[2] - width

    def draw(high: int) -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = torch.randint(0, high, (count,), generator=generator).numpy()
        return drawn

    def draw_fractions() -> NDArray[np.float64]:
        fractions: NDArray[np.float64] = torch.rand(count, generator=generator, dtype=torch.float64).numpy()
        return fractions

    numbers, tops, lefts = draw(len(frames)), draw(last[0] + 1), draw(last[1] + 1)
    if motion is not None:
        moving = draw_fractions() < params.moving_crops
        cells = np.searchsorted(motion.ravel(), draw_fractions() * motion[-1, -1, -1], side="right")
        moving_numbers, rows, columns = np.unravel_index(cells, motion.shape)
        numbers = np.where(moving, moving_numbers, numbers)
        tops = np.where(moving, np.clip(rows * _CELL - draw(height), 0, last[0]), tops)
        lefts = np.where(moving, np.clip(columns * _CELL - draw(width), 0, last[1]), lefts)
    crops = np.stack(
        [frames[n, top : top + height, left : left + width] for n, top, left in zip(numbers, tops, lefts, strict=True)]
    )
    if params.mirror:
        mirrored = draw_fractions() < 0.5
        crops[mirrored] = crops[mirrored, :, ::-1]
    return torch.from_numpy(to_model(crops))


def _save(folder: Path, state: dict[str, Any], step: int, losses: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {name: part.state_dict() for name, part in state.items()} | {"step": step, "losses": losses}
    with open_whole(folder / "state.pt") as stream:  # a kill while saving leaves the one before
        torch.save(content, stream)


def _resume(folder: Path, state: dict[str, Any]) -> tuple[int, list[float]]:
    file = folder / "state.pt"
    if not file.exists():
        return 0, []
    try:
        with zipfile.ZipFile(file) as archive:
            damaged = archive.testzip()  # torch itself compares no checksum
        saved = {} if damaged else torch.load(file, weights_only=True)
    except (PermissionError, MemoryError):
        raise
    except Exception as error:  # what a cut-off file makes these libraries raise has no common class
        damaged, saved = f"{type(error).__name__}: {error}", {}
    if damaged:
        log.warning("checkpoint dropped", checkpoint=str(file), reason=damaged)
        file.unlink()
        return 0, []
    for name, part in state.items():
        part.load_state_dict(saved[name])
    log.info("resuming", checkpoint=str(file), step=saved["step"])
    return int(saved["step"]), list(saved["losses"])
