"""Reconstruction error: what the diffusion model of normal frames cannot restore is the evidence.

Two methods behind one function, both deterministic; the model is any function that predicts the velocity, so that
production needs no torch:

- `one_step`: noise the frame to several timesteps, predict the clean frame in one pass each, average the squared error
  over fixed noise draws.
- `ddim`: invert the frame with DDIM, reconstruct it, subtract (Wang et al., DIRE, ICCV 2023); diffusers' schedulers.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from evergreen.params import ReconstructionParams
from evergreen.video.clips import VideoError
from evergreen.video.context import Image, stack_context, to_model

Floats = NDArray[np.float32]
Predict = Callable[[Floats, NDArray[np.int64]], Floats]
"""Velocity, [frames, channels, height, width], of frames with their context at timesteps, [frames]."""


@dataclass(frozen=True)
class Reconstructor:
    """A diffusion model, ready to give the error maps of frames as they come."""

    predict: Predict
    alphas_cumprod: Floats
    context: list[int]
    cut_threshold: float | None
    params: ReconstructionParams

    def __call__(self, images: Iterable[Image], stream: bool = False) -> Iterator[Floats]:
        """Error map of each picture, [timesteps, height, width]; read in batches, in a stream one by one."""
        stacked = stack_context(images, self.context, self.cut_threshold, stream)
        while batch := list(islice(stacked, 1 if stream else self.params.batch_size)):
            frames = to_model(np.stack(batch))
            channels = frames.shape[1] // (1 + len(self.context))
            yield from reconstruct(frames, channels, self.predict, self.alphas_cumprod, self.params)


def reconstruct(
    frames: Floats, channels: int, predict: Predict, alphas_cumprod: Floats, params: ReconstructionParams
) -> Floats:
    """Squared error of each newest frame, mean over its channels.

    Args:
        frames: with their context, [frames, channels · (1 + context), height, width], in [-1, 1], the newest last.
        channels: of one frame.
        alphas_cumprod: of the noise schedule, [train timesteps].

    Returns:
        Error maps, [frames, timesteps, height, width]; with `ddim` one per frame.
    """
    context, clean = frames[:, :-channels], frames[:, -channels:]
    if params.method == "one_step":
        return _reconstruct_one_step(context, clean, predict, alphas_cumprod, params)
    try:
        from evergreen.video.ddim import reconstruct_ddim  # noqa: PLC0415 - the other method needs no torch
    except ImportError as error:
        message = f"reconstruction.method ddim needs {error.name}. Install the train and video extras, or use one_step."
        raise VideoError(message) from error
    return reconstruct_ddim(context, clean, predict, alphas_cumprod, params)


def _reconstruct_one_step(
    context: Floats, clean: Floats, predict: Predict, alphas_cumprod: Floats, params: ReconstructionParams
) -> Floats:
    errors = np.zeros((len(clean), len(params.timesteps), *clean.shape[2:]), np.float32)
    for draw in range(params.noise_draws):
        # The same noise for every frame: an error depends on nothing but the frame and its context.
        noise = np.random.default_rng(draw).standard_normal(clean.shape[1:], dtype=np.float32)
        for position, timestep in enumerate(params.timesteps):
            signal, spread = np.sqrt(alphas_cumprod[timestep]), np.sqrt(1 - alphas_cumprod[timestep])
            noised = signal * clean + spread * noise
            velocity = predict(np.concatenate([context, noised], axis=1), np.full(len(clean), timestep, np.int64))
            restored = signal * noised - spread * velocity
            errors[:, position] += ((restored - clean) ** 2).mean(1) / params.noise_draws
    return errors
