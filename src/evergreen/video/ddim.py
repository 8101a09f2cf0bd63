"""Reconstruction by deterministic inversion (Wang et al., DIRE, ICCV 2023), with diffusers' schedulers."""

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from evergreen.params import ReconstructionParams
from evergreen.video.reconstruction import Floats, Predict


def reconstruct_ddim(
    context: Floats, clean: Floats, predict: Predict, alphas_cumprod: Floats, params: ReconstructionParams
) -> Floats:
    """Invert frames to `ddim_depth`, reconstruct them, and return the squared error; see `reconstruct`."""
    previous = np.concatenate([[1.0], alphas_cumprod[:-1]])
    options = {
        "num_train_timesteps": len(alphas_cumprod),
        "trained_betas": (1 - alphas_cumprod / previous).tolist(),
        "prediction_type": "v_prediction",
        "clip_sample": False,
    }
    inverse, forward = DDIMInverseScheduler(**options), DDIMScheduler(**options)
    # The schedulers space their timesteps evenly over the whole schedule, from 0; the lowest are taken.
    num_inference_steps = len(alphas_cumprod) // (params.ddim_depth // params.ddim_steps)
    inverse.set_timesteps(num_inference_steps)
    forward.set_timesteps(num_inference_steps)
    steps = ((inverse, inverse.timesteps[: params.ddim_steps]), (forward, forward.timesteps[-params.ddim_steps :]))
    sample = torch.from_numpy(clean)
    for scheduler, timesteps in steps:
        for timestep in timesteps:
            frames = np.concatenate([context, sample.numpy()], axis=1)
            velocity = predict(frames, np.full(len(clean), int(timestep), np.int64))
            sample = scheduler.step(torch.from_numpy(velocity), timestep, sample).prev_sample
    errors: Floats = ((sample.numpy() - clean) ** 2).mean(1, keepdims=True)
    return errors
