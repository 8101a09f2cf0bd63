"""Generated against real video by the same code with folders, on a set that this benchmark makes itself from UCSD Ped2.

A diffusion model of single frames learns from the normal frames of one half of the clips. Videos are sampled from it,
each a walk between two noises; pieces of the other half are the real ones. Both go through the same encoder. The
pipeline gets the folders 0 (real) and 1 (generated), and learns what real video is from the first; the model that was
sampled from is kept:
python benchmarks/generated_video.py [--steps 1500]
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler
from numpy.typing import NDArray
from ped2 import DATA, PACKAGES, RESULTS, make_params
from record import save_result
from torch import Tensor
from video_file import write_video

from evergreen.params import Params
from evergreen.progress import show_progress
from evergreen.video.clips import Clip
from evergreen.video.diffusion import Denoiser, has_fast_bfloat16, train_denoiser
from evergreen.video.labels import find_clips
from evergreen.video.own_footage import train_on_footage

WORK = Path(".cache/generated_video")
N_FRAMES, FPS, SAMPLING_STEPS = 8, 10, 25
COMMON = {
    "clips.height": 64,
    "clips.width": 96,
    "clips.cut_threshold": None,
    "clips.window": 8,
    "clips.stride": 4,
    "diffusion.channels": [32, 64, 96],
    "diffusion.crop_size": 64,
    "diffusion.learning_rate": 1e-3,
    "diffusion.ema_decay": 0.995,
}
GENERATOR = COMMON | {"diffusion.context": [], "diffusion.max_timestep": None}
# Labels are what it learns from; anomalies that are synthesized in real videos are another question.
DETECTOR = COMMON | {
    "video.source": str(WORK / "videos"),
    "video.validation_size": 0.25,
    "video.test_size": 0.25,
    "video.synthetic_sequences": 1,
}
Pictures = NDArray[np.uint8]
"""[frames, height, width, 1]."""


def read_pieces(params: Params) -> list[list[Pictures]]:
    """Runs of normal frames, in pieces, of every other clip and of the rest."""
    halves: list[list[Pictures]] = [[], []]
    for position, clip in enumerate(find_clips(DATA, DATA / "labels.csv")):
        run: list[NDArray[np.uint8]] = []
        for frame in Clip(clip.path, params.clips).frames():
            anomalous = bool(clip.ranges) and bool(clip.mask(np.array([frame.index]))[0])
            run = [] if anomalous else [*run, frame.image]
            if len(run) == N_FRAMES:
                halves[position % 2].append(np.stack(run))
                run = []
    return halves


def sample(denoiser: Denoiser, params: Params, count: int) -> Iterator[Pictures]:
    """Videos from noise, each along the arc between two noises, with diffusers' DDIM scheduler."""
    scheduler = DDIMScheduler.from_config(denoiser.scheduler.config, timestep_spacing="trailing")
    scheduler.set_timesteps(SAMPLING_STEPS)
    generator = torch.Generator().manual_seed(params.seed)
    angles = torch.linspace(0, 0.5, N_FRAMES)[:, None, None, None]
    shape = (1, 1, params.clips.height, params.clips.width)
    for _ in show_progress(range(count), "sampling"):
        first, second = (torch.randn(shape, generator=generator) for _ in range(2))
        frames: Tensor = torch.cos(angles) * first + torch.sin(angles) * second
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=has_fast_bfloat16()):
            for timestep in scheduler.timesteps:
                velocity = denoiser(frames, timestep.expand(len(frames))).float()
                frames = scheduler.step(velocity, timestep, frames).prev_sample
        pixels = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        yield np.moveaxis(pixels.numpy(), 1, -1)


def write(pictures: Pictures, path: Path) -> None:
    """Both classes in the same way, so that the encoder tells nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, pictures.repeat(3, axis=-1), FPS, crf="10")


def main() -> None:
    """Make the set, train and measure the detector, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=RESULTS / "generated_video.json")
    args = parser.parse_args()
    params, detector = make_params(GENERATOR | {"diffusion.steps": args.steps}, seed=0), make_params(DETECTOR, seed=0)
    learned, real = read_pieces(params)
    model = WORK / f"model-{args.steps}"
    if not model.exists():
        frames = np.concatenate(learned)
        trained, _ = train_denoiser(frames, params.diffusion, params.clips, params.seed, WORK / "checkpoints")
        trained.save(model)
    denoiser = Denoiser.load(model)
    shutil.rmtree(WORK / "videos", ignore_errors=True)
    for number, pictures in enumerate(real):
        write(pictures, WORK / f"videos/0/real_{number:02d}.mp4")
    for number, pictures in enumerate(sample(denoiser, params, len(real))):
        write(pictures, WORK / f"videos/1/generated_{number:02d}.mp4")
    _, _, metrics = train_on_footage(detector, WORK / "detector")
    save_result(
        args.out,
        [*PACKAGES, "av"],
        n_videos_per_class=len(real),
        n_frames=N_FRAMES,
        metrics=metrics.model_dump(mode="json", exclude={"cost", "train_runtime"}),
    )
    print(f"clip AUC {metrics.clip_auc}, frame AUC {metrics.frame_auc}; difference of frames {metrics.baselines}")


if __name__ == "__main__":
    main()
