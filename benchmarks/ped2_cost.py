"""What a frame's reconstruction costs, by method: the same weights, frames and processor, the methods in turns."""

import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from evergreen.params import Params
from evergreen.video.clips import Clip
from evergreen.video.context import stack_context, to_model
from evergreen.video.extraction import load_trained
from evergreen.video.reconstruction import reconstruct

N_FRAMES = 8
REPEATS = 5


def measure_cost(clip: Path, weights: Path, params: Params) -> dict[str, dict[str, Any]]:
    """Seconds per frame of `one_step` with all its noise levels and with one of them, and of DDIM.

    Returns:
        By method: `passes` of the network per frame, `seconds` per frame, the median, and `of_ddim`, their ratio.
    """
    reconstructor = load_trained(weights, params)
    images = (frame.image for frame in islice(Clip(clip, params.clips).frames(), N_FRAMES))
    frames = to_model(np.stack(list(stack_context(images, params.diffusion.context, params.clips.cut_threshold))))
    settings = params.reconstruction
    middle = settings.timesteps[len(settings.timesteps) // 2]
    methods = {
        "one_step": (settings, len(settings.timesteps) * settings.noise_draws),
        "one_step, one level": (settings.model_copy(update={"timesteps": [middle]}), settings.noise_draws),
        "ddim": (settings.model_copy(update={"method": "ddim"}), 2 * settings.ddim_steps),
    }
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(REPEATS + 1):
        for name, (chosen, _) in methods.items():
            start = time.perf_counter()
            reconstruct(frames, 1, reconstructor.predict, reconstructor.alphas_cumprod, chosen)
            if repeat:  # the first one warms up
                seconds[name].append((time.perf_counter() - start) / N_FRAMES)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    return {
        name: {"passes": passes, "seconds": medians[name], "of_ddim": medians[name] / medians["ddim"]}
        for name, (_, passes) in methods.items()
    }
