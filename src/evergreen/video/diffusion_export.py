"""The diffusion model as production runs it: ONNX, without torch."""

from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from evergreen.onnx_export import export_onnx
from evergreen.params import ClipParams, ReconstructionParams
from evergreen.video.bundle import DENOISER, SCHEDULE
from evergreen.video.diffusion import Denoiser
from evergreen.video.reconstruction import Predict, Reconstructor


def export_denoiser(denoiser: Denoiser, clips: ClipParams, folder: Path) -> None:
    """Write the diffusion model as ONNX, for frames of the size in `clips`, with its noise schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    batch = torch.export.Dim("batch", min=1, max=4096)
    frames = torch.zeros(2, denoiser.unet.config.in_channels, clips.height, clips.width)
    example = (frames, torch.zeros(2, dtype=torch.int64))
    names = ["frames", "timesteps"], ["velocity"]
    onnx.save(export_onnx(denoiser, example, ({0: batch}, {0: batch}), *names), folder / DENOISER)
    np.save(folder / SCHEDULE, denoiser.alphas_cumprod.numpy().astype(np.float32))


def make_reconstructor(
    denoiser: Denoiser,
    context: list[int],
    cut_threshold: float | None,
    params: ReconstructionParams,
    mixed: bool = False,
) -> Reconstructor:
    """The diffusion model as torch runs it, on a GPU where there is one; `load_reconstructor` runs its ONNX.

    Args:
        mixed: compute in bfloat16.
    """
    alphas_cumprod = denoiser.alphas_cumprod.cpu().numpy().astype(np.float32)
    return Reconstructor(_predict_torch(denoiser, mixed), alphas_cumprod, context, cut_threshold, params)


def _predict_torch(denoiser: Denoiser, mixed: bool) -> Predict:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    denoiser = denoiser.to(device, memory_format=torch.channels_last)

    def predict(frames: NDArray[np.float32], timesteps: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            velocity = denoiser(torch.from_numpy(frames).to(device), torch.from_numpy(timesteps).to(device))
        result: NDArray[np.float32] = velocity.float().cpu().numpy()
        return result

    return predict
