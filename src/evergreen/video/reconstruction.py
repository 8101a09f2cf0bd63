"""Reconstruction error: what the diffusion model of normal frames cannot restore is the evidence.

Two methods behind one function, both deterministic; the model is any function that predicts the velocity, so that
production needs no torch:

- `one_step`: noise the frame to several timesteps, predict the clean frame in one pass each, average the squared error
  over fixed noise draws.
- `ddim`: invert the frame with DDIM, reconstruct it, subtract (Wang et al., DIRE, ICCV 2023); diffusers' schedulers.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from evergreen.params import ReconstructionParams

Floats = NDArray[np.float32]
Predict = Callable[[Floats, NDArray[np.int64]], Floats]
"""Velocity, [frames, channels, height, width], of frames with their context at timesteps, [frames]."""


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
    method = _reconstruct_one_step if params.method == "one_step" else _reconstruct_ddim
    return method(frames[:, :-channels], frames[:, -channels:], predict, alphas_cumprod, params)


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


def _reconstruct_ddim(
    context: Floats, clean: Floats, predict: Predict, alphas_cumprod: Floats, params: ReconstructionParams
) -> Floats:
    import torch  # noqa: PLC0415 - the other method needs none of it
    from diffusers import DDIMInverseScheduler, DDIMScheduler  # noqa: PLC0415

    previous = np.concatenate([[1.0], alphas_cumprod[:-1]])
    options = {
        "num_train_timesteps": len(alphas_cumprod),
        "trained_betas": (1 - alphas_cumprod / previous).tolist(),
        "prediction_type": "v_prediction",
        "clip_sample": False,
    }
    inverse, forward = DDIMInverseScheduler(**options), DDIMScheduler(**options)
    inverse.set_timesteps(params.ddim_steps)
    forward.set_timesteps(params.ddim_steps)
    sample = torch.from_numpy(clean)
    for scheduler in (inverse, forward):
        for timestep in scheduler.timesteps:
            if timestep <= params.ddim_depth:
                frames = np.concatenate([context, sample.numpy()], axis=1)
                velocity = predict(frames, np.full(len(clean), int(timestep), np.int64))
                sample = scheduler.step(torch.from_numpy(velocity), timestep, sample).prev_sample
    errors: Floats = ((sample.numpy() - clean) ** 2).mean(1, keepdims=True)
    return errors
