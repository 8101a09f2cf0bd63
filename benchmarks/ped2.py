"""The video pipeline on UCSD Ped2, by models that never saw the clip that they score, beside what is simpler.

Three folds of four clips, as the data's README wants it. Of the other eight clips, one of each fold is for validation;
the diffusion model learns from the normal frames of the rest and from the clip without anomalies, the CNN+LSTM from
their labels. Folds run side by side with --jobs; a run that is cut off resumes, and a new judge uses the error maps:
python benchmarks/ped2.py --setting two_cores|full [--seeds N] [--jobs N] [--set diffusion.steps=2000 …]
"""

import argparse
import multiprocessing
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from record import save_result
from ruamel.yaml import YAML
from sklearn.metrics import roc_auc_score

from evergreen.metrics import Estimate, Metrics
from evergreen.params import EvaluateParams, Params
from evergreen.video.bundle import CNN_LSTM, Manifest
from evergreen.video.clips import Clip
from evergreen.video.cnn_lstm_export import export_cnn_lstm
from evergreen.video.detector import judge_windows, load_judge, load_reconstructor
from evergreen.video.diffusion import Denoiser
from evergreen.video.diffusion_export import make_reconstructor
from evergreen.video.evaluation import measure_difference
from evergreen.video.extraction import make_features
from evergreen.video.features import read_features, write_features
from evergreen.video.labels import LabeledClip, find_clips
from evergreen.video.metrics import FeatureMetrics
from evergreen.video.sequences import Part, Split, read_sequences
from evergreen.video.training import TrainingSet, calibrate, load_training_set, train_cnn_lstm

DATA, RESULTS, WORK = Path("../shared/data/ped2"), Path("benchmarks/results"), Path(".cache/ped2")
RESULT = "result.json"
PACKAGES = ("torch", "diffusers", "onnxruntime", "numpy", "opencv-python-headless")
N_FOLDS = 3
SECTIONS = ("video", "clips", "diffusion", "reconstruction", "cnn_lstm")
# What every setting changes of params.yaml: the camera is fixed; what each clip has of normal frames is wanted; few
# anomalies are synthesized, since labels are what the CNN+LSTM learns from here.
COMMON = {
    "video.normal_fraction": 0.97,
    "video.validation_size": 0.01,
    "video.test_size": 0.01,
    "video.synthetic_sequences": 1,
    "clips.cut_threshold": None,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "two_cores": {
        "clips.height": 120,
        "clips.width": 180,
        "diffusion.channels": [32, 64, 96],
        "diffusion.steps": 1000,
        "diffusion.crop_size": 64,
        "diffusion.learning_rate": 1e-3,
        "diffusion.ema_decay": 0.995,
        "reconstruction.timesteps": [20, 50, 100],
        "cnn_lstm.block": 12,
    },
    "full": {
        "clips.height": 240,
        "clips.width": 360,
        "diffusion.channels": [64, 128, 192],
        "diffusion.steps": 2000,
        "diffusion.batch_size": 16,
        "diffusion.crop_size": 128,
        "diffusion.learning_rate": 5e-4,
        "diffusion.ema_decay": 0.999,
        "diffusion.checkpoint_steps": 100_000,
        "reconstruction.timesteps": [20, 50, 100],
        "reconstruction.noise_draws": 2,
        "reconstruction.batch_size": 32,
        "cnn_lstm.block": 24,
    },
}
# What judges the error maps, and what it changes of the setting. Without a step of training, the CNN+LSTM is its
# starting point: the largest block's error, smoothed over time.
JUDGES: dict[str, dict[str, Any]] = {"smoothed_error": {"cnn_lstm.steps": 0}, "full_pipeline": {}}
Scores = NDArray[np.float64]
Clips = dict[str, list[float]]
"""Scores of the frames of each clip."""


class FoldResult(Metrics):
    """Scores of a fold's four clips by models of one seed that never saw them."""

    seed: int
    fold: int
    seconds: dict[str, float]
    y_true: Clips
    scores: dict[str, Clips]
    """By row of the table."""


@dataclass(frozen=True)
class Fold:
    """What one process needs."""

    number: int
    params: Params
    folder: Path


def make_params(changes: dict[str, Any], seed: int) -> Params:
    """`params.yaml` with some keys changed, checked as every `params.yaml` is."""
    raw = Params.load().model_dump() | {"seed": seed}
    for key, value in changes.items():
        section, name = key.split(".")
        raw[section][name] = value
    return Params.parse(raw)


def make_fold(number: int, params: Params, work: Path) -> Fold:
    """A fold in a folder of its parameters' own, so that what is done is done with these."""
    parameters = zlib.crc32(params.model_dump_json().encode())
    return Fold(number, params, work / f"{parameters:08x}-seed-{params.seed}-fold-{number}")


def plan_fold(number: int, params: Params) -> list[Part]:
    """Every third clip is in the test; the second of each other fold, which holds both classes, is for validation."""
    clips = find_clips(DATA, DATA / "labels.csv")
    scored = [clip for clip in clips if clip.ranges]
    splits: dict[Path, Split] = {clip.path: "normal" for clip in clips if not clip.ranges}
    for position, clip in enumerate(scored):
        in_validation = position // N_FOLDS == 1
        splits[clip.path] = "test" if position % N_FOLDS == number else "validation" if in_validation else "train"
    return [Part(clip, splits[clip.path], 0, _count_frames(clip, params)) for clip in clips]


def _count_frames(clip: LabeledClip, params: Params) -> int:
    return sum(1 for _ in Clip(clip.path, params.clips).frames())


def run_fold(fold: Fold) -> FoldResult:
    """Train on two folds and score the third, from videos to scores; what an earlier run left is not made again."""
    cv2.setNumThreads(2)
    parts = plan_fold(fold.number, fold.params)
    result = _load_result(fold)
    if result is None:
        scores, y_true = score_difference(parts, fold.params)
        rows = {"frame_difference": scores}
        result = FoldResult(seed=fold.params.seed, fold=fold.number, seconds={}, y_true=y_true, scores=rows)
    make_error_maps(parts, fold, result.seconds)
    data: dict[int, TrainingSet] = {}
    for name, changes in JUDGES.items():
        if name not in result.scores:
            result.scores |= _run_timed(name, result.seconds, partial(score_judge, name, changes, fold, data))
            result.save(fold.folder / RESULT)
    return result


def _load_result(fold: Fold) -> FoldResult | None:
    path = fold.folder / RESULT
    return FoldResult.load(path) if path.exists() else None


def make_error_maps(parts: list[Part], fold: Fold, seconds: dict[str, float]) -> None:
    """Train the diffusion model, and write the error maps of all clips; each file is there when it is complete."""
    params, folder = fold.params, fold.folder
    made = folder / "features.json"
    if not made.exists():
        paths = (folder / "features.h5", folder / "weights", folder / "diffusion.csv", folder / "checkpoints")
        make_features(params, parts, *paths).save(made)
    metrics = FeatureMetrics.load(made)
    seconds |= {"diffusion": metrics.train_runtime, "error_maps": metrics.features_runtime}
    if not (folder / "test.h5").exists():
        _run_timed("test_error_maps", seconds, partial(write_test_maps, parts, params, folder))


def _run_timed(name: str, seconds: dict[str, float], run: Callable[[], Any]) -> Any:
    start = time.monotonic()
    value = run()
    seconds[name] = time.monotonic() - start
    return value


def write_test_maps(parts: list[Part], params: Params, folder: Path) -> None:
    """Error maps of the clips that no model has seen, with torch on a GPU and as production runs it elsewhere."""
    settings = (params.diffusion.context, params.clips.cut_threshold, params.reconstruction)
    if torch.cuda.is_available():
        reconstructor = make_reconstructor(Denoiser.load(folder / "weights"), *settings)
    else:
        reconstructor = load_reconstructor(folder / "weights", *settings)
    sequences = read_sequences(parts, params.video, params.clips, params.diffusion.context, ["test"])
    write_features(sequences, reconstructor, folder / "test.h5")


def score_difference(parts: list[Part], params: Params) -> tuple[Clips, Clips]:
    """The difference of frames as the pipeline's own evaluation takes it, and the labels."""
    scores: Clips = {}
    y_true: Clips = {}
    # All that it reads of a manifest; there is none without a bundle.
    manifest = cast(Manifest, SimpleNamespace(clips=params.clips, block=params.cnn_lstm.block))
    for sequence in read_sequences(parts, params.video, params.clips, params.diffusion.context, ["test"]):
        scores[sequence.group] = measure_difference(sequence.images, manifest).tolist()
        y_true[sequence.group] = sequence.mask.astype(float).tolist()
    return scores, y_true


def score_judge(name: str, changes: dict[str, Any], fold: Fold, data: dict[int, TrainingSet]) -> dict[str, Clips]:
    """Train a judge of error maps, export it, calibrate it on validation, and let it judge the fold's clips.

    Args:
        name, changes: of `JUDGES`.
        fold: whose error maps are on disk.
        data: what judges learn from, by the size of blocks, kept from one judge to the next: it takes long to read.

    Returns:
        Two rows: calibrated, which is what the detector answers, and the logits before that.
    """
    params = make_params(_list_changes(fold.params) | changes, fold.params.seed)
    features, clips = fold.folder / "features.h5", params.clips
    block = params.cnn_lstm.block
    if block not in data:
        data[block] = load_training_set(features, params.cnn_lstm, clips)
    trained = train_cnn_lstm(data[block], params.cnn_lstm, fold.params.seed, bidirectional=True)
    export_cnn_lstm(trained.model, clips, fold.folder / name)
    judge = load_judge(fold.folder / name / CNN_LSTM)
    calibration = calibrate(features, judge, clips, params.cnn_lstm.cost_ratio, causal=False).frame
    logits: Clips = {}
    for sequence in read_features(fold.folder / "test.h5"):
        items = ((None, errors) for chunk in sequence for errors in chunk)
        logits[sequence.group] = [logit for _, logit, _ in judge_windows(items, judge, clips.window, clips.stride)]
    calibrated = {clip: [calibration(logit) for logit in values] for clip, values in logits.items()}
    return {name: calibrated, f"{name}_uncalibrated": logits}


def _list_changes(params: Params) -> dict[str, Any]:
    return {f"{s}.{name}": value for s in SECTIONS for name, value in getattr(params, s).model_dump().items()}


def measure_auc(folds: list[FoldResult], row: str) -> float:
    """Frame AUC over the pooled frames of the clips of some folds."""
    return pool_auc(_pair_clips(folds, row))


def estimate_auc(folds: list[FoldResult], row: str, params: EvaluateParams) -> Estimate:
    """Frame AUC over pooled frames with its bootstrap interval over clips."""
    clips = _pair_clips(folds, row)
    rng = np.random.default_rng(folds[0].seed)
    draws = [pool_auc([clips[i] for i in rng.integers(len(clips), size=len(clips))]) for _ in range(params.n_resamples)]
    tail = (1 - params.confidence_level) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail])
    return Estimate(value=pool_auc(clips), low=float(low), high=float(high))


def _pair_clips(folds: list[FoldResult], row: str) -> list[tuple[Scores, Scores]]:
    pairs = [(mask, fold.scores[row][clip]) for fold in folds for clip, mask in fold.y_true.items()]
    return [(np.array(mask), np.array(scores)) for mask, scores in pairs]


def pool_auc(clips: list[tuple[Scores, Scores]]) -> float:
    """Frame AUC over all clips' labels and scores; not a number where no frame is normal."""
    y_true, y_score = (np.concatenate(column) for column in zip(*clips, strict=True))
    return float(roc_auc_score(y_true, y_score)) if not y_true.all() else float("nan")


def summarize(results: list[FoldResult], params: EvaluateParams) -> dict[str, Any]:
    """Frame AUC by row: pooled over all twelve clips by seed, where all folds of it are done, and by fold."""
    seeds: dict[int, list[FoldResult]] = {}
    for result in sorted(results, key=lambda result: (result.seed, result.fold)):
        seeds.setdefault(result.seed, []).append(result)
    rows = list(results[0].scores)
    pooled = {
        row: {
            str(seed): estimate_auc(folds, row, params).model_dump()
            for seed, folds in seeds.items()
            if len(folds) == N_FOLDS
        }
        for row in rows
    }
    by_fold = [
        {
            "seed": result.seed,
            "fold": result.fold,
            "clips": list(result.y_true),
            "seconds": {name: round(value, 1) for name, value in result.seconds.items()},
            "frame_auc": {row: measure_auc([result], row) for row in rows},
        }
        for folds in seeds.values()
        for result in folds
    ]
    return {"frame_auc": pooled, "folds": by_fold}


def save(results: list[FoldResult], args: argparse.Namespace, params: Params, seconds: float) -> dict[str, Any]:
    """Write what is done so far, and return its figures."""
    summary = summarize(results, params.evaluate)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "processor"
    save_result(
        args.out,
        PACKAGES,
        device=device,
        setting=args.setting,
        seconds=round(seconds, 1),
        jobs=args.jobs,
        params=params.model_dump(mode="json", include=set(SECTIONS), exclude={"video": {"source", "labels"}}),
        **summary,
    )
    return summary


def main() -> None:
    """Run the folds, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SETTINGS, default="two_cores")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="folds at a time")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change a parameter")
    parser.add_argument("--work", type=Path, help=f"folder of weights and error maps (default {WORK}/SETTING)")
    parser.add_argument("--out", type=Path, help=f"result (default {RESULTS}/ped2_SETTING.json)")
    args = parser.parse_args()
    args.work = args.work or WORK / args.setting
    args.out = args.out or RESULTS / f"ped2_{args.setting}.json"
    if not DATA.is_dir():
        sys.exit(f"skipped: {DATA} is missing. It holds the clips of UCSD Ped2 and their labels.")
    changes = COMMON | SETTINGS[args.setting]
    for change in args.set:
        key, value = change.split("=", 1)
        changes[key] = YAML(typ="safe", pure=True).load(value)
    run(args, changes)


def run(args: argparse.Namespace, changes: dict[str, Any]) -> None:
    """Run the folds of all seeds side by side."""
    start = time.monotonic()
    folds = [
        make_fold(number, make_params(changes, seed), args.work)
        for seed in range(args.seeds)
        for number in range(N_FOLDS)
    ]
    results: list[FoldResult] = []
    # CUDA can't be used in a forked process.
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_fold, fold) for fold in folds]
        for future in as_completed(futures):
            results.append(future.result())
            summary = save(results, args, folds[0].params, time.monotonic() - start)
            print(f"seed {results[-1].seed}, fold {results[-1].fold}: {results[-1].seconds}", flush=True)
    print("| row | frame AUC by seed |\n| --- | --- |")
    for row, by_seed in summary["frame_auc"].items():
        print(f"| {row} | {', '.join(str(Estimate(**auc)) for auc in by_seed.values())} |")


if __name__ == "__main__":
    main()
