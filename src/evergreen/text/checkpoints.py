"""Checkpoints of an interrupted training: the newest that can be read in full, and all that they depend on."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
import transformers
from packaging.version import Version
from safetensors import safe_open
from transformers.trainer_pt_utils import safe_globals

from evergreen.bundle import hash_folder
from evergreen.logs import get_logger
from evergreen.params import TrainParams

log = get_logger(__name__)
STATE, WEIGHTS, OPTIMIZER, SCHEDULER = "trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt"


class _DamagedError(Exception):
    """A checkpoint can't be resumed from; says which file of it and why."""


def compute_fingerprint(params: TrainParams, labels: list[str], seed: int, data_hash: str, weights: Path) -> str:
    """Hash all that a training depends on: a checkpoint of anything else is not resumed.

    Args:
        labels: in the order of the logits.
        data_hash: of the prepared corpus.
        weights: the folder that the training starts from.
    """
    # The libraries draw the order of the texts, and write the checkpoint. The build (+cpu, +cu130) changes neither.
    versions = [Version(transformers.__version__).public, Version(torch.__version__).public]
    parts = [params.model_dump_json(), json.dumps(labels), str(seed), data_hash, hash_folder(weights), *versions]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def find_checkpoint(folder: Path) -> Path | None:
    """Return the newest checkpoint in a training's folder that can be read; remove those that can't.

    A kill, a full disk or a loss of power while saving leaves one that lacks a file or holds a part of it.

    Raises:
        PermissionError: when a file may not be read, which says nothing about what is in it.
    """
    readable: dict[str, Path] = {}
    for checkpoint in sorted(folder.glob("checkpoint-*"), key=_get_step):
        try:
            best = _read(checkpoint).get("best_model_checkpoint")
            if best and Path(best).name not in {checkpoint.name, *readable}:
                raise _DamagedError(f"the best model so far, {Path(best).name}, is not there")
        except _DamagedError as error:
            log.warning("checkpoint dropped", checkpoint=str(checkpoint), reason=str(error))
            shutil.rmtree(checkpoint)
        else:
            readable[checkpoint.name] = checkpoint
    last = next(reversed(readable.values()), None)
    if last:
        log.info("resuming", checkpoint=str(last))
    return last


def _get_step(checkpoint: Path) -> int:
    step = checkpoint.name.rpartition("-")[2]
    return int(step) if step.isdecimal() else -1


def _read(checkpoint: Path) -> dict[str, Any]:
    """Open every file that a resumed training reads, and return the trainer's state.

    Raises:
        _DamagedError: for a file that is missing or cut off.
    """
    generators = sorted(checkpoint.glob("rng_state*.pth")) or [checkpoint / "rng_state.pth"]  # one per process
    scalers = list(checkpoint.glob("scaler.pt"))  # with float16 only
    file = checkpoint / STATE
    try:
        state = json.loads(file.read_bytes())
        if not isinstance(state, dict):
            raise _DamagedError(f"{file.name}: not an object")
        file = checkpoint / WEIGHTS
        with safe_open(file, "pt"):  # compares the file's size with what its header announces
            pass
        for file in [checkpoint / OPTIMIZER, checkpoint / SCHEDULER, *generators, *scalers]:
            _load(file)
    except (PermissionError, MemoryError, _DamagedError):
        raise
    except Exception as error:  # what a cut-off file makes these libraries raise has no common class
        raise _DamagedError(f"{file.name}: {type(error).__name__}: {error}") from error
    return state


def _load(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        if damaged := archive.testzip():  # torch itself compares no checksum
            raise _DamagedError(f"{file.name}: {damaged} has changed")
    with safe_globals():
        torch.load(file, map_location="cpu", weights_only=True, mmap=True)
