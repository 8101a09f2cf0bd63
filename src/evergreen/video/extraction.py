"""From videos to error maps, for the stage video-features and for `evergreen video train` alike."""

import hashlib
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from packaging.version import Version

from evergreen.bundle import hash_folder
from evergreen.params import Params
from evergreen.progress import show_progress
from evergreen.sources import resolve
from evergreen.video.detector import load_reconstructor
from evergreen.video.diffusion import Denoiser, has_fast_bfloat16, train_denoiser
from evergreen.video.diffusion_export import export_denoiser, make_reconstructor
from evergreen.video.features import write_features
from evergreen.video.metrics import FeatureMetrics
from evergreen.video.reconstruction import Reconstructor
from evergreen.video.sequences import Part, Split, count_sequences, read_normal_frames, read_sequences


def make_features(
    params: Params, parts: list[Part], features: Path, weights: Path, history: Path, checkpoints: Path
) -> FeatureMetrics:
    """Train the diffusion model on normal frames and write the error maps of training and validation.

    Args:
        parts: of the videos, as `plan_parts` divides them.
        features: the file of error maps.
        weights: folder of the diffusion model, as diffusers reads it and as ONNX.
        history: CSV of the training loss.
        checkpoints: where a training that is cut off is resumed from.
    """
    start = time.monotonic()
    n_frames, losses, folder = train_weights(params, parts, weights, checkpoints)
    trained = time.monotonic()
    history.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"step": range(1, len(losses) + 1), "loss": losses}).to_csv(history, index=False)
    splits: list[Split] = ["train", "validation"]
    sequences = read_sequences(parts, params.video, params.clips, params.diffusion.context, splits)
    total = count_sequences(parts, params.video, splits)
    stats = write_features(
        show_progress(sequences, "error maps", total=total, unit="sequence"), load_trained(weights, params), features
    )
    shutil.rmtree(folder, ignore_errors=True)  # not before: what fails above must cost no second training
    return FeatureMetrics(
        train_runtime=trained - start,
        features_runtime=time.monotonic() - trained,
        normal_frames=n_frames,
        diffusion_steps=len(losses),
        diffusion_loss=float(np.mean(losses[-max(len(losses) // 10, 1) :])) if losses else None,
        **asdict(stats),
    )


def train_weights(params: Params, parts: list[Part], weights: Path, checkpoints: Path) -> tuple[int, list[float], Path]:
    """Train the diffusion model on the normal frames of `parts`, and write it as diffusers reads it and as ONNX.

    Returns:
        The number of frames, the losses, and the folder of checkpoints, which is left.
    """
    frames = read_normal_frames(parts, params.video, params.clips, params.diffusion.context)
    folder = checkpoints / f"diffusion-{_compute_fingerprint(params, frames)}"
    denoiser, losses = train_denoiser(frames, params.diffusion, params.clips, params.seed, folder)
    shutil.rmtree(weights, ignore_errors=True)
    denoiser.save(weights)
    export_denoiser(denoiser, params.clips, weights)
    return len(frames), losses, folder


def _compute_fingerprint(params: Params, frames: NDArray[np.uint8]) -> str:
    """Hash all that the training depends on: a checkpoint of anything else is not resumed."""
    fingerprint = hashlib.sha256(frames.tobytes())
    base_model = params.diffusion.base_model
    # The version without its build (+cpu, +cu130), which changes neither the draws nor the checkpoint.
    parts = [params.diffusion.model_dump_json(), params.clips.model_dump_json(), str(params.seed), str(frames.shape)]
    parts += [Version(torch.__version__).public, hash_folder(resolve(base_model)) if base_model else ""]
    fingerprint.update("\n".join(parts).encode())
    return fingerprint.hexdigest()[:16]


def load_trained(weights: Path, params: Params) -> Reconstructor:
    """Load what was trained: torch where it is faster, else the ONNX file, which is what production runs."""
    settings = (params.diffusion.context, params.clips.cut_threshold, params.reconstruction)
    if has_fast_bfloat16():
        return make_reconstructor(Denoiser.load(weights), *settings, mixed=True)
    return load_reconstructor(weights, *settings)
