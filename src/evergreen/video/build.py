"""From error maps to an evaluated detector, for the stage cnn-lstm and for `evergreen video train` alike."""

import shutil
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from evergreen.bundle import hash_files
from evergreen.params import Params
from evergreen.progress import show_progress
from evergreen.sources import resolve
from evergreen.video.bundle import CNN_LSTM, CNN_LSTM_CAUSAL, DENOISER, SCHEDULE, Bundle, Manifest
from evergreen.video.cnn_lstm import CnnLstm
from evergreen.video.cnn_lstm_export import check_parity, export_cnn_lstm
from evergreen.video.cost import measure_cost
from evergreen.video.detector import Detector, load_judge, load_reconstructor
from evergreen.video.diffusion import Denoiser
from evergreen.video.diffusion_export import make_reconstructor
from evergreen.video.evaluation import measure_kinds, measure_scores, score_sequences
from evergreen.video.metrics import Parity, VideoMetrics
from evergreen.video.report import write_report
from evergreen.video.sequences import Part, count_sequences, read_sequences
from evergreen.video.training import CnnLstmResult, calibrate, load_training_set, train_cnn_lstm

MODELS = ("offline", "causal")


@dataclass
class DetectorTraining:
    """What the training of a detector leaves to report: seconds, validation losses, parity, and rows of `step`."""

    train_runtime: float
    validation_loss: dict[str, float]
    parity: Parity
    steps: list[dict[str, float]]


def make_detector(
    params: Params,
    parts: list[Part],
    normal_frames: int,
    features: Path,
    weights: Path,
    folder: Path,
    history: Path,
) -> tuple[Bundle, DetectorTraining]:
    """Train both CNN+LSTMs, calibrate what was exported, and write the bundle into `folder`, in place of what is there.

    Args:
        parts: of the videos, as `plan_parts` divides them.
        normal_frames: that the diffusion model learned from, as `make_features` says.
        features, weights: what `make_features` wrote.
        history: CSV of the training.

    Raises:
        ExportError: when the bundle does not agree with torch.
    """
    data = load_training_set(features, params.cnn_lstm, params.clips)
    results = {name: train_cnn_lstm(data, params.cnn_lstm, params.seed, name == "offline") for name in MODELS}
    shutil.rmtree(folder, ignore_errors=True)
    for result in results.values():
        export_cnn_lstm(result.model, params.clips, folder)
    for name in (DENOISER, SCHEDULE):
        shutil.copy2(weights / name, folder / name)
    cost_ratio = params.cnn_lstm.cost_ratio
    offline = calibrate(features, load_judge(folder / CNN_LSTM), params.clips, cost_ratio, causal=False)
    causal = calibrate(features, load_judge(folder / CNN_LSTM_CAUSAL), params.clips, cost_ratio, causal=True)
    parity = _check_parity(parts, params, [result.model for result in results.values()], weights, folder)
    manifest = Manifest(
        version=params.video.version,
        data_hash=hash_files(*_list_sources(parts, params)),
        trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
        run=uuid.uuid4().hex,
        clips=params.clips,
        context=params.diffusion.context,
        reconstruction=params.reconstruction,
        block=params.cnn_lstm.block,
        error_mean=data.statistics.mean.tolist(),
        error_std=data.statistics.std.tolist(),
        offline=offline,
        causal=causal,
        cost_ratio=cost_ratio,
        normal_frames=normal_frames,
        train_sequences=data.n_sequences,
        weights_hash=hash_files(*sorted((weights / "unet").glob("*.safetensors"))),
    )
    rows = [{"model": name, **row} for name, result in results.items() for row in result.history]
    history.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(history, index=False)
    return Bundle.write(folder, manifest), _summarize(results, parity)


def _summarize(results: dict[str, CnnLstmResult], parity: Parity) -> DetectorTraining:
    losses = {}
    for name, result in results.items():
        losses[f"{name}_start"] = result.history[0]["eval_loss"]
        losses[f"{name}_kept"] = min(row["eval_loss"] for row in result.history)
    steps = [
        {"step": row["step"], **{f"cnn_lstm_{name}_{key}": row[key] for key in ("loss", "eval_loss")}}
        for name, result in results.items()
        for row in result.history
    ]
    return DetectorTraining(sum(result.train_runtime for result in results.values()), losses, parity, steps)


def _check_parity(parts: list[Part], params: Params, models: list[CnnLstm], weights: Path, folder: Path) -> Parity:
    sequence = next(read_sequences(parts, params.video, params.clips, params.diffusion.context, ["validation"]))
    denoiser = Denoiser.load(weights)
    settings = (params.diffusion.context, params.clips.cut_threshold, params.reconstruction)
    exact = make_reconstructor(denoiser, *settings)
    images = sequence.images[: params.clips.window]
    return check_parity(
        images, (exact, load_reconstructor(folder, *settings)), models, folder, params.video.max_difference
    )


def _list_sources(parts: list[Part], params: Params) -> list[Path]:
    paths = list(dict.fromkeys(part.clip.path for part in parts))
    return paths if params.video.labels is None else [*paths, resolve(params.video.labels)]


def evaluate_detector(
    detector: Detector, training: DetectorTraining, params: Params, parts: list[Part], reports: Path
) -> tuple[VideoMetrics, list[Path]]:
    """Measure a bundle on the test part, run it as a user would, and return the metrics and the pictures."""
    total = count_sequences(parts, params.video, ["test"])
    sequences = read_sequences(parts, params.video, params.clips, params.diffusion.context, ["test"])
    scored = list(score_sequences(detector, show_progress(sequences, "test", total=total, unit="sequence")))
    scores, difference = measure_scores(scored, detector, params.evaluate, params.seed)
    source = next(part.clip.path for part in parts if part.split == "test")
    cost = measure_cost(detector.bundle.folder, source, reports / "detect")
    shutil.copy2(reports / "detect/timeline.png", reports / "timeline.png")
    pictures = [*write_report(scored, detector.manifest, reports), reports / "timeline.png"]
    masks = np.concatenate([item.sequence.mask for item in scored])
    metrics = VideoMetrics(
        **scores.model_dump(),
        n_clips=len({item.sequence.group for item in scored}),
        n_frames=len(masks),
        n_anomalous_frames=int(masks.sum()),
        confidence_level=params.evaluate.confidence_level,
        by_kind=measure_kinds(scored),
        baselines={"frame_difference": difference},
        train_runtime=training.train_runtime,
        validation_loss=training.validation_loss,
        parity=training.parity,
        cost=cost,
        size_mb=detector.bundle.size_bytes / 1e6,
    )
    return metrics, pictures
