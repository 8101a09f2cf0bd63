"""The diffusion model of normal frames: a small `UNet2DModel` that denoises a frame beside its clean predecessors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss
from tqdm import tqdm

from evergreen.logs import get_logger
from evergreen.params import DiffusionParams

log = get_logger(__name__)


@dataclass
class Denoiser:
    """A U-Net with its noise schedule; predicts the velocity of the newest frame (Salimans and Ho, ICLR 2022)."""

    unet: UNet2DModel
    scheduler: DDPMScheduler

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

    def __call__(self, frames: Tensor, timesteps: Tensor) -> Tensor:
        """Velocity of the newest frame; `frames` is [batch, channels · (1 + context), height, width]."""
        velocity: Tensor = self.unet(frames, timesteps).sample
        return velocity

    def save(self, folder: Path) -> None:
        """Write a folder that diffusers reads."""
        self.unet.save_pretrained(folder / "unet")
        self.scheduler.save_pretrained(folder / "scheduler")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder that `save`, or diffusers for an unconditional pipeline, wrote."""
        return cls(
            UNet2DModel.from_pretrained(folder, subfolder="unet").eval(),
            DDPMScheduler.from_pretrained(folder, subfolder="scheduler"),
        )


def to_model(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale pictures, [..., height, width, channels], to [-1, 1] with channels before height."""
    return np.moveaxis(images.astype(np.float32) / 127.5 - 1, -1, -3)


def stack_context(frames: NDArray[np.float32], context: list[int]) -> NDArray[np.float32]:
    """Put each frame's predecessors before it as channels.

    Args:
        frames: [frames, channels, height, width].
        context: offsets, all negative; before the first frame stands the first frame.

    Returns:
        [frames, channels · (len(context) + 1), height, width], the newest frame last.
    """
    numbers = np.arange(len(frames))
    return np.concatenate([frames[np.maximum(numbers + offset, 0)] for offset in [*context, 0]], axis=1)


def train_denoiser(
    frames: NDArray[np.float32], params: DiffusionParams, seed: int, checkpoints: Path, progress: bool
) -> tuple[Denoiser, list[float]]:
    """Train on random crops of normal frames, resuming from the last checkpoint; return the averaged model and losses.

    Args:
        frames: with their context, [frames, channels · (1 + context), height, width].
        checkpoints: a folder of this training alone; what a step draws depends on seed and step only, so a resumed
            training ends in the same weights.
    """
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    channels = frames.shape[1] // (1 + len(params.context))
    denoiser = Denoiser.create(params, channels)
    denoiser.unet.to(device).train()
    optimizer = torch.optim.AdamW(denoiser.unet.parameters(), lr=params.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, params.learning_rate, max(params.steps, 1), pct_start=0.1)
    ema = EMAModel(denoiser.unet.parameters(), decay=params.ema_decay, use_ema_warmup=True, power=0.75)
    state = {"unet": denoiser.unet, "optimizer": optimizer, "schedule": schedule, "ema": ema}
    start, losses = _resume(checkpoints, state)
    steps = tqdm(range(start, params.steps), "Diffusion", initial=start, total=params.steps, disable=not progress)
    for step in steps:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        batch = _crop(frames, params, generator).to(device)
        clean = batch[:, -channels:]
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = torch.randint(0, params.num_train_timesteps, (len(batch),), generator=generator).to(device)
        noised = denoiser.scheduler.add_noise(clean, noise, timesteps)
        target = denoiser.scheduler.get_velocity(clean, noise, timesteps)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            velocity = denoiser(torch.cat([batch[:, :-channels], noised], 1), timesteps)
        loss = mse_loss(velocity.float(), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(denoiser.unet.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        ema.step(denoiser.unet.parameters())
        losses.append(loss.item())
        steps.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}")
        if (step + 1) % params.checkpoint_steps == 0:
            _save(checkpoints, state, step + 1, losses)
    ema.copy_to(denoiser.unet.parameters())
    denoiser.unet.cpu().eval()
    return denoiser, losses


def _crop(frames: NDArray[np.float32], params: DiffusionParams, generator: torch.Generator) -> Tensor:
    height, width = (min(params.crop_size, size) for size in frames.shape[2:])

    def draw(high: int) -> NDArray[np.int64]:
        drawn: NDArray[np.int64] = torch.randint(0, high, (params.batch_size,), generator=generator).numpy()
        return drawn

    numbers = draw(len(frames))
    tops, lefts = draw(frames.shape[2] - height + 1), draw(frames.shape[3] - width + 1)
    crops = [
        frames[n, :, top : top + height, left : left + width] for n, top, left in zip(numbers, tops, lefts, strict=True)
    ]
    return torch.from_numpy(np.stack(crops))


def _save(folder: Path, state: dict[str, Any], step: int, losses: list[float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "state.partial"
    torch.save({name: part.state_dict() for name, part in state.items()} | {"step": step, "losses": losses}, partial)
    partial.replace(folder / "state.pt")  # a kill while saving leaves the one before


def _resume(folder: Path, state: dict[str, Any]) -> tuple[int, list[float]]:
    file = folder / "state.pt"
    if not file.exists():
        return 0, []
    saved = torch.load(file, weights_only=True)
    for name, part in state.items():
        part.load_state_dict(saved[name])
    log.info("resuming", checkpoint=str(file), step=saved["step"])
    return int(saved["step"]), list(saved["losses"])
