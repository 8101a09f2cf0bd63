"""The video pipeline on UCSD Ped2, by models that never saw the clip that they score, beside what is simpler.

Three folds of four clips, as the data's README wants it. Of the other eight clips, one of each fold is for validation;
the diffusion model learns from the normal frames of the rest and from the clip without anomalies, the CNN+LSTM from
their labels. Each source of maps (`ped2_sources.py`) is judged by plain smoothing of its largest block, by the CRF on
top of it, which is where the CNN+LSTM starts, and by CNN+LSTMs of several seeds. Folds run side by side with --jobs; a
run that is cut off resumes:
python benchmarks/ped2.py --setting two_cores|full [--sources diffusion raw_frames …] [--seeds N] [--judge-seeds N]
"""

import argparse
import multiprocessing
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from ped2_alarms import COST_RATIOS, measure_alarms
from ped2_cost import measure_cost
from ped2_plot import plot_table
from ped2_sources import SOURCES, write_maps
from record import save_result
from ruamel.yaml import YAML
from scipy.ndimage import uniform_filter1d
from sklearn.metrics import roc_auc_score

from evergreen.metrics import Estimate, Metrics
from evergreen.params import ClipParams, CnnLstmParams, EvaluateParams, Params
from evergreen.video.bundle import CNN_LSTM, Calibration, Manifest
from evergreen.video.clips import Clip
from evergreen.video.cnn_lstm import BlockStatistics, CnnLstm, pool_blocks
from evergreen.video.cnn_lstm_export import export_cnn_lstm
from evergreen.video.detector import Judge, judge_windows, load_judge
from evergreen.video.evaluation import measure_difference
from evergreen.video.features import FeatureSequence, read_features
from evergreen.video.labels import LabeledClip, find_clips
from evergreen.video.sequences import Part, Split, read_sequences
from evergreen.video.training import choose_threshold, fit_calibration, load_training_set, train_cnn_lstm

DATA, RESULTS, WORK = Path("../shared/data/ped2"), Path("benchmarks/results"), Path(".cache/ped2")
STATISTICS = "statistics.npz"
SMOOTHING = 21
"""Frames that the plain row is averaged over."""
ALARMING = ("diffusion/smoothed", "diffusion/cnn_lstm_0")
"""Rows whose alarms are counted, for the first seed."""
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
    "video.sequence_frames": 200,
    "clips.cut_threshold": None,
    "clips.window": 64,
    "clips.stride": 16,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "two_cores": {
        "clips.height": 120,
        "clips.width": 180,
        "diffusion.channels": [32, 64, 96],
        "diffusion.max_timestep": 80,
        "diffusion.steps": 1000,
        "diffusion.crop_size": 64,
        "diffusion.moving_crops": 0.7,
        "diffusion.mirror": True,
        "diffusion.learning_rate": 1e-3,
        "diffusion.ema_decay": 0.995,
        "reconstruction.timesteps": [30, 40, 50],
        "reconstruction.ddim_depth": 60,
        "cnn_lstm.block": 12,
        "cnn_lstm.channels": 4,
        "cnn_lstm.steps": 200,
        "cnn_lstm.evaluation_steps": 25,
    },
    "full": {
        "clips.height": 240,
        "clips.width": 360,
        "diffusion.channels": [64, 128, 192],
        "diffusion.max_timestep": 80,
        "diffusion.steps": 2000,
        "diffusion.batch_size": 16,
        "diffusion.crop_size": 128,
        "diffusion.moving_crops": 0.7,
        "diffusion.mirror": True,
        "diffusion.learning_rate": 5e-4,
        "diffusion.ema_decay": 0.999,
        "diffusion.checkpoint_steps": 100_000,
        "reconstruction.timesteps": [30, 40, 50],
        "reconstruction.ddim_depth": 60,
        "reconstruction.noise_draws": 2,
        "reconstruction.batch_size": 32,
        "cnn_lstm.block": 24,
        "cnn_lstm.channels": 4,
        "cnn_lstm.steps": 200,
        "cnn_lstm.evaluation_steps": 25,
    },
}
Scores = NDArray[np.float64]
Clips = dict[str, list[float]]
"""Scores of the frames of each clip."""


class FoldResult(Metrics):
    """Scores of a fold's four clips by models of one seed that never saw them."""

    seed: int
    fold: int
    seconds: dict[str, dict[str, float]]
    """By source: of its training, of its maps, and how many frames these are."""
    y_true: Clips
    scores: dict[str, Clips]
    """By row of the table: SOURCE/JUDGE, calibrated, and its logits, SOURCE/JUDGE/logits."""
    calibrations: dict[str, Calibration]
    thresholds: dict[str, dict[str, float]]
    """Of the calibrated scores, by row and cost ratio, as validation chose them."""


@dataclass(frozen=True)
class Fold:
    """What one process needs."""

    number: int
    params: Params
    folder: Path
    sources: list[str]
    judge_seeds: int


def make_params(changes: dict[str, Any], seed: int) -> Params:
    """`params.yaml` with some keys changed, checked as every `params.yaml` is."""
    raw = Params.load().model_dump() | {"seed": seed}
    for key, value in changes.items():
        section, name = key.split(".")
        raw[section][name] = value
    return Params.parse(raw)


def make_fold(number: int, params: Params, args: argparse.Namespace) -> Fold:
    """A fold in a folder of its parameters' own, so that what is done is done with these."""
    return Fold(number, params, find_folder(args.work, params, number), args.sources, args.judge_seeds)


def find_folder(work: Path, params: Params, number: int) -> Path:
    """Where a fold keeps the maps that it makes with these parameters."""
    parameters = params.model_dump_json(
        include={"video", "clips", "diffusion", "reconstruction"}, exclude={"clips": {"window", "stride"}}
    )
    return work / f"{zlib.crc32(parameters.encode()):08x}-seed-{params.seed}-fold-{number}"


def find_result(folder: Path, params: Params) -> Path:
    """Where a fold keeps what its maps give with these parameters of the judge."""
    judge = f"{params.clips.window} {params.clips.stride} {params.cnn_lstm.model_dump_json()}"
    return folder / f"result-{zlib.crc32(judge.encode()):08x}.json"


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
    path = find_result(fold.folder, fold.params)
    if path.exists():
        result = FoldResult.load(path)
    else:
        scores, y_true = score_difference(parts, fold.params)
        rows = {"frame_difference": scores}
        empty: dict[str, Any] = {"seconds": {}, "calibrations": {}, "thresholds": {}}
        result = FoldResult(seed=fold.params.seed, fold=fold.number, y_true=y_true, scores=rows, **empty)
    for name in fold.sources:
        params = make_params(_list_changes(fold.params) | SOURCES[name].changes, fold.params.seed)
        result.seconds[name] = write_maps(name, parts, params, fold.folder)
        if f"{name}/cnn_lstm_{fold.judge_seeds - 1}" not in result.scores:
            score_source(name, params, fold, result)
        result.save(path)
    return result


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


def score_source(name: str, params: Params, fold: Fold, result: FoldResult) -> None:
    """Train the judges of a source's maps, export them, calibrate each on validation, and judge the fold's clips.

    Without a step of training, the CNN+LSTM is where it starts: the CRF.
    """
    folder, clips = fold.folder / name, params.clips
    data = load_training_set(folder / "maps.h5", params.cnn_lstm, clips)
    np.savez(folder / STATISTICS, **asdict(data.statistics))
    start = params.cnn_lstm.model_copy(update={"steps": 0, "members": 1})
    plans = {"crf": (start, 0)} | {f"cnn_lstm_{seed}": (params.cnn_lstm, seed) for seed in range(fold.judge_seeds)}
    for judge, (settings, seed) in plans.items():
        trained = train_cnn_lstm(data, settings, seed, bidirectional=True)
        export_cnn_lstm(trained.model, clips, folder / judge)
    for judge, run in load_judges(folder, params).items():
        known = list(judge_file(folder / "maps.h5", "validation", run, clips))
        y_true = np.concatenate([sequence.mask for sequence, _ in known])
        logits = [logit for _, values in known for logit in values]
        calibration = fit_calibration(list(zip(logits, y_true.tolist(), strict=True)), params.cnn_lstm.cost_ratio)
        y_proba = np.array([calibration(logit) for logit in logits])
        scores = {s.group: values for s, values in judge_file(folder / "test.h5", "test", run, clips)}
        row = f"{name}/{judge}"
        result.calibrations[row] = calibration
        result.thresholds[row] = {str(ratio): choose_threshold(y_true, y_proba, ratio) for ratio in COST_RATIOS}
        result.scores[row] = {clip: [calibration(logit) for logit in values] for clip, values in scores.items()}
        result.scores[f"{row}/logits"] = scores


def load_judges(folder: Path, params: Params) -> dict[str, Judge]:
    """The judges of a source's folder."""
    judges = {path.parent.name: load_judge(path) for path in sorted(folder.glob(f"*/{CNN_LSTM}"))}
    with np.load(folder / STATISTICS) as statistics:
        return {"smoothed": make_plain(BlockStatistics(**statistics), params.cnn_lstm)} | judges


def make_plain(statistics: BlockStatistics, params: CnnLstmParams) -> Judge:
    """Judge a window by its frames' largest block alone, averaged over time."""
    model = CnnLstm(statistics, params, change_rate=0.5, bidirectional=True)

    def judge(errors: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        largest = model.describe(pool_blocks(torch.from_numpy(errors[0]), params.block)[None])[0, :, 0]
        smoothed = uniform_filter1d(largest.numpy(), SMOOTHING, mode="nearest")[None]
        return smoothed, smoothed.max(1)

    return judge


def judge_file(
    path: Path, split: Split, judge: Judge, clips: ClipParams
) -> Iterator[tuple[FeatureSequence, list[float]]]:
    """The sequences of a split in a file of maps, each with the logits of its frames."""
    for sequence in read_features(path):
        if sequence.split == split:
            items = ((None, errors) for chunk in sequence for errors in chunk)
            yield sequence, [logit for _, logit, _ in judge_windows(items, judge, clips.window, clips.stride)]


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
    complete = [folds for folds in seeds.values() if len(folds) == N_FOLDS]
    rows = dict.fromkeys(row for result in results for row in result.scores)
    pooled = {
        row: {
            str(folds[0].seed): estimate_auc(folds, row, params).model_dump()
            for folds in complete
            if all(row in fold.scores for fold in folds)
        }
        for row in rows
    }
    by_fold = [
        {
            "seed": result.seed,
            "fold": result.fold,
            "clips": list(result.y_true),
            "seconds": {name: {k: round(v, 1) for k, v in part.items()} for name, part in result.seconds.items()},
            "frame_auc": {row: measure_auc([result], row) for row in result.scores},
        }
        for folds in seeds.values()
        for result in folds
    ]
    alarms = {
        row: measure_alarms(complete[0], row) for row in ALARMING if complete and row in complete[0][0].thresholds
    }
    return {"frame_auc": pooled, "alarms": alarms, "folds": by_fold}


def save(
    results: list[FoldResult], args: argparse.Namespace, params: Params, seconds: float, cost: dict[str, Any]
) -> dict[str, Any]:
    """Write what is done so far, and return its figures."""
    summary = summarize(results, params.evaluate) | {"cost": cost}
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
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--judge-seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="folds at a time")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="change a parameter")
    parser.add_argument("--work", type=Path, help=f"folder of weights and error maps (default {WORK}/SETTING)")
    parser.add_argument("--out", type=Path, help=f"result (default {RESULTS}/ped2.json, of full ped2_full.json)")
    args = parser.parse_args()
    args.work = args.work or WORK / args.setting
    args.out = args.out or RESULTS / ("ped2.json" if args.setting == "two_cores" else f"ped2_{args.setting}.json")
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
        make_fold(number, make_params(changes, seed), args) for seed in range(args.seeds) for number in range(N_FOLDS)
    ]
    results: list[FoldResult] = []
    # CUDA can't be used in a forked process.
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(run_fold, fold) for fold in folds]
        for future in as_completed(futures):
            results.append(future.result())
            save(results, args, folds[0].params, time.monotonic() - start, {})
            print(f"seed {results[-1].seed}, fold {results[-1].fold}: {results[-1].seconds}", flush=True)
    seconds, weights = time.monotonic() - start, folds[0].folder / "diffusion/weights"
    # Now that nothing runs beside it.
    cost = measure_cost(find_clips(DATA)[0].path, weights, folds[0].params) if weights.exists() else {}
    summary = save(results, args, folds[0].params, seconds, cost)
    plot_table(summary, args.out.with_suffix(".png"))
    print("| row | frame AUC by seed |\n| --- | --- |")
    for row, by_seed in summary["frame_auc"].items():
        print(f"| {row} | {', '.join(str(Estimate(**auc)) for auc in by_seed.values())} |")


if __name__ == "__main__":
    main()
