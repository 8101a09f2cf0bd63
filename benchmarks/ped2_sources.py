"""What the CNN+LSTM of `ped2.py` looks at: the diffusion model's errors, and what is simpler in their place.

A source gives each picture a map, [channels, height, width], that is not negative, as the pictures come.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from evergreen.params import Params
from evergreen.progress import show_progress
from evergreen.video.context import Image, stack_context, to_model
from evergreen.video.extraction import load_trained, train_weights
from evergreen.video.features import CHUNK, write_features
from evergreen.video.reconstruction import reconstruct
from evergreen.video.sequences import Part, Split, read_normal_frames, read_sequences

HELD = 12
"""Frames that share an error of DDIM."""
Maps = Callable[[Iterable[Image]], Iterator[NDArray[np.float32]]]


@dataclass(frozen=True)
class Source:
    """A kind of maps.

    Attributes:
        make: trains what they take, unless it is in the folder that it gets.
        changes: of the fold's parameters.
        model: the source whose folder holds the model; empty: this one.
        derived: whether the model's maps are taken; nothing is computed then.
        channel: the one channel of them that this source is.
        every: which of them: the first of so many frames stands for all of them.
    """

    make: Callable[[list[Part], Params, Path], Maps]
    changes: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    derived: bool = False
    channel: int | None = None
    every: int = 1


def write_maps(name: str, parts: list[Part], params: Params, folder: Path) -> dict[str, float]:
    """Write the maps of a source for training and validation, `maps.h5`, and for the test, `test.h5`.

    Args:
        folder: of the fold; each source has a folder in it, and what is there is not made again.

    Returns:
        Seconds: `training`, `maps` of all frames, and `frames`, how many they are.
    """
    source, target = SOURCES[name], folder / name
    done = target / "seconds.json"
    if not done.exists():
        target.mkdir(parents=True, exist_ok=True)
        model = folder / (source.model or name)
        if source.derived:
            for file in ("maps.h5", "test.h5"):
                _derive(model / file, target / file, source)
            done.write_text("{}")
            return {}
        start = time.monotonic()
        maps = source.make(parts, params, model)
        seconds = {"training": time.monotonic() - start, "frames": 0.0}
        start = time.monotonic()
        files: dict[str, list[Split]] = {"maps.h5": ["train", "validation"], "test.h5": ["test"]}
        for file, splits in files.items():
            sequences = read_sequences(parts, params.video, params.clips, params.diffusion.context, splits)
            stats = write_features(show_progress(sequences, f"{name}: {file}"), maps, target / file)  # type: ignore[arg-type]
            seconds["frames"] += stats.n_frames
        done.write_text(json.dumps(seconds | {"maps": time.monotonic() - start}))
    seconds = json.loads(done.read_text())
    return {str(key): float(value) for key, value in seconds.items()}


def _derive(path: Path, target: Path, source: Source) -> None:
    partial = target.with_suffix(".partial")
    with h5py.File(path) as read, h5py.File(partial, "w", libver="latest") as written:
        for key, group in read.items():
            copy = written.create_group(key)
            copy.attrs.update(group.attrs)
            copy.create_dataset("mask", data=group["mask"][:])
            errors = group["errors"][:]
            if source.channel is not None:
                errors = errors[:, source.channel : source.channel + 1]
            held = errors[np.arange(len(errors)) // source.every * source.every]
            copy.create_dataset("errors", data=held, compression="lzf", chunks=(CHUNK, *errors.shape[1:]))
    partial.replace(target)


def _make_diffusion(parts: list[Part], params: Params, folder: Path) -> Maps:
    return load_trained(_train(parts, params, folder), params)


def _train(parts: list[Part], params: Params, folder: Path) -> Path:
    weights, partial = folder / "weights", folder / "weights.partial"
    if not weights.exists():
        *_, checkpoints = train_weights(params, parts, partial, folder / "checkpoints")
        partial.rename(weights)
        shutil.rmtree(checkpoints, ignore_errors=True)
    return weights


def _make_ddim(parts: list[Part], params: Params, folder: Path) -> Maps:
    """DDIM's errors of every twelfth frame, since a frame takes forty passes; the others get the last one's."""
    reconstructor = load_trained(_train(parts, params, folder), params)

    def reconstruct_some(images: Iterable[Image]) -> Iterator[NDArray[np.float32]]:
        for number, stacked in enumerate(stack_context(images, reconstructor.context, reconstructor.cut_threshold)):
            if number % HELD == 0:
                frames = to_model(stacked[None])
                error = reconstruct(
                    frames, 1, reconstructor.predict, reconstructor.alphas_cumprod, params.reconstruction
                )
            yield error[0]

    return reconstruct_some


class _Autoencoder(nn.Module):  # type: ignore[misc]
    """Convolutions down to an eighth of the size and back, about as large as the diffusion model."""

    def __init__(self, inputs: int, outputs: int, widths: list[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size = inputs
        for width in widths:
            layers += [nn.Conv2d(size, width, 3, stride=2, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)]
            layers += [nn.SiLU()]
            size = width
        for width in [*widths[-2::-1], widths[0]]:
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(size, width, 3, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
            size = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(size, outputs, 3, padding=1))

    def forward(self, frames: Tensor) -> Tensor:
        """Restore frames, [frames, channels, height, width], whose sizes need not be multiples of eight."""
        restored: Tensor = self.layers(frames)
        return restored[..., : frames.shape[2], : frames.shape[3]]


def _make_autoencoder(parts: list[Part], params: Params, folder: Path) -> Maps:
    """The squared error of an autoencoder that sees the frame alone, trained as long as the diffusion model."""
    torch.manual_seed(params.seed)
    settings = params.diffusion
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = _Autoencoder(1, 1, settings.channels).to(device)
    file = folder / "autoencoder.pt"
    if not file.exists():
        frames = read_normal_frames(parts, params.video, params.clips, [])
        images = torch.from_numpy(to_model(frames))
        optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, settings.steps, pct_start=0.1)
        for _ in show_progress(range(settings.steps), "autoencoder"):
            batch = images[torch.randint(len(images), (settings.batch_size,))].to(device)
            loss = mse_loss(model(batch), batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        torch.save(model.state_dict(), file)
    model.load_state_dict(torch.load(file, weights_only=True, map_location=device))
    model.eval()

    def restore(images: Iterable[Image]) -> Iterator[NDArray[np.float32]]:
        iterator = iter(images)
        while batch := list(islice(iterator, params.reconstruction.batch_size)):
            frames = torch.from_numpy(to_model(np.stack(batch))).to(device)
            with torch.inference_mode():
                yield from ((model(frames) - frames) ** 2).cpu().numpy()

    return restore


def _make_difference(_parts: list[Part], params: Params, _folder: Path) -> Maps:
    """The squared difference from the frame before."""

    def subtract(images: Iterable[Image]) -> Iterator[NDArray[np.float32]]:
        for stacked in stack_context(images, [-1], params.clips.cut_threshold):
            before, now = to_model(stacked)
            yield ((now - before) ** 2)[None]

    return subtract


def _make_raw(_parts: list[Part], _params: Params, _folder: Path) -> Maps:
    """The frame itself, from 0 to 1."""
    return lambda images: (np.moveaxis(image.astype(np.float32) / np.float32(255), -1, 0) for image in images)


def _derive_from_diffusion(channel: int | None = None, every: int = 1) -> Source:
    return Source(_make_diffusion, model="diffusion", derived=True, channel=channel, every=every)


SOURCES = {
    "diffusion": Source(_make_diffusion),
    "timestep_first": _derive_from_diffusion(channel=0),
    "timestep_second": _derive_from_diffusion(channel=1),
    "timestep_third": _derive_from_diffusion(channel=2),
    "no_context": Source(_make_diffusion, {"diffusion.context": []}),
    "autoencoder": Source(_make_autoencoder),
    "difference": Source(_make_difference),
    "raw_frames": Source(_make_raw),
    "ddim": Source(_make_ddim, {"reconstruction.method": "ddim"}, model="diffusion"),
    "one_step_held": _derive_from_diffusion(every=HELD),
}
