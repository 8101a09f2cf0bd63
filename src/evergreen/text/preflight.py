"""What can be known before a training: whether it could start, end and be shipped, checked before its hours."""

import copy
import shutil
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime
from rich.filesize import decimal

from evergreen import sources
from evergreen.bundle import hash_files
from evergreen.errors import EvergreenError, get_first_line
from evergreen.params import Params
from evergreen.settings import explain_unwritable
from evergreen.text.bundle import MODEL
from evergreen.text.checkpoints import compute_fingerprint
from evergreen.text.export import encode, export_model
from evergreen.text.loading import load_pretrained
from evergreen.text.model import TextClassifier, find_layers
from evergreen.text.split_files import check_split
from evergreen.text.splits import SPLITS
from evergreen.text.training import KEPT_CHECKPOINTS

_SPARE = 64 << 20
"""Bytes for all that is small: tokenizers, metrics, plots, the tracked run."""


class PreflightError(EvergreenError):
    """A training could not end well; the message says why, and what to do."""


def check_training(params: Params, labels: list[str], data: Path, checkpoints: Path, outputs: list[Path]) -> None:
    """Check all that a training needs, before it starts.

    Args:
        labels: in the order of the logits.
        data: the prepared corpus.
        checkpoints: where trainings leave their checkpoints.
        outputs: folders that will be written: of the bundle and of the torch weights, then any others.

    Raises:
        ParamsError: when the parameters don't fit the model.
        SourceError: when the model or the corpus can't be read or used.
        PreflightError: when a folder can't be written, a disk has too little room, or the model can't be exported.
    """
    for folder in [checkpoints, *outputs]:
        if reason := explain_unwritable(folder):
            raise PreflightError(f"{folder}: can't be written ({reason}). Make it a folder that you may write to.")
    files = [check_split(data, split) for split in SPLITS]
    weights = sources.resolve(params.train.warm_start or params.train.base_model)
    tokenizer, model = load_pretrained(params.train, weights, labels)
    run = checkpoints / compute_fingerprint(params.train, labels, params.seed, hash_files(*files), weights)
    check_space(model, run, outputs[:2])
    _check_export(model, tokenizer, params)


def check_space(model: TextClassifier, checkpoints: Path, models: list[Path]) -> None:
    """Check that the checkpoints of a training, its weights and its bundle find room.

    Args:
        checkpoints: of this training alone; what an interrupted one left there makes room for the next.
        models: folders of the bundle and of the torch weights, each replaced.

    Raises:
        PreflightError: when a disk has too little room.
    """
    weights = sum(value.numel() * value.element_size() for value in model.parameters())
    trained = sum(value.numel() * value.element_size() for value in model.parameters() if value.requires_grad)
    # AdamW keeps two numbers for each that is trained; a new checkpoint is written before an old one goes.
    sizes = {checkpoints: (KEPT_CHECKPOINTS + 1) * (weights + 2 * trained)} | dict.fromkeys(models, weights)
    needed: dict[int, int] = defaultdict(lambda: _SPARE)
    folders: dict[int, Path] = {}
    for folder, size in sizes.items():
        disk = _find_existing(folder).stat().st_dev
        folders.setdefault(disk, folder)
        needed[disk] += size - sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    for disk, folder in folders.items():
        free = shutil.disk_usage(_find_existing(folder)).free
        if free < needed[disk]:
            raise PreflightError(
                f"{folder}: the training needs about {decimal(needed[disk])} on this disk, {decimal(free)} are free. "
                "Make room, or name another disk (EVERGREEN_STATE_DIR for the checkpoints)."
            )


def _find_existing(folder: Path) -> Path:
    """The folder, or the nearest one that it would be made in."""
    absolute = folder.absolute()
    return next(path for path in [absolute, *absolute.parents] if path.exists())


def _check_export(model: TextClassifier, tokenizer: object, params: Params) -> None:
    """Export the model with one layer, which tells what all of them would: seconds, not the minute of the whole.

    Raises:
        PreflightError: when that fails, and with all layers too.
    """
    feed = encode(tokenizer, "late again, thanks", params.train.max_length)
    shallow = copy.deepcopy(model)
    del find_layers(shallow.encoder)[1:]
    try:
        _try_export(shallow, tokenizer, params.export.quantize, feed)
    except Exception:  # a model whose layers are of several kinds may need them all
        try:
            _try_export(model, tokenizer, params.export.quantize, feed)
        except Exception as error:  # whatever a model's own code raises
            name = "train.warm_start" if params.train.warm_start else "train.base_model"
            kind = type(model.encoder).__name__
            reason = get_first_line(error)
            raise PreflightError(
                f"{name}: {kind} can't be exported to ONNX ({reason}), which a bundle needs. Name a model of "
                "another architecture."
            ) from error


def _try_export(model: TextClassifier, tokenizer: object, quantize: str, feed: dict[str, np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, tokenizer, Path(folder), quantize, [feed])
        session = onnxruntime.InferenceSession(Path(folder, MODEL), providers=["CPUExecutionProvider"])
        logits, _ = session.run(["logits", "sentence_embedding"], feed)
    if not np.isfinite(logits).all():
        raise ValueError("its logits are not finite")
