"""Training of the CNN+LSTM on error maps, and the choice of its calibration and threshold."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import combinations, takewhile
from pathlib import Path

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_sample_weight
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from evergreen.logs import get_logger
from evergreen.params import ClipParams, CnnLstmParams
from evergreen.progress import show_progress
from evergreen.video.bundle import Calibration, Calibrations
from evergreen.video.clips import VideoError, slide
from evergreen.video.cnn_lstm import BlockStatistics, CnnLstm, pool_blocks
from evergreen.video.detector import Judge, judge_stream, judge_windows
from evergreen.video.features import read_features

log = get_logger(__name__)
SPLITS = ("train", "validation")


@dataclass(frozen=True)
class Windows:
    """Windows of one length: pooled errors, [windows, frames, timesteps, rows, columns], labels, [windows, frames]."""

    blocks: Tensor
    y_true: Tensor


@dataclass
class TrainingSet:
    """What the CNN+LSTM learns from: windows by their length, and the statistics of normal errors."""

    train: list[Windows]
    validation: list[Windows]
    statistics: BlockStatistics
    n_sequences: int


@dataclass
class CnnLstmResult:
    """A trained CNN+LSTM, seconds it took, and rows of `step`, `loss` and `eval_loss`."""

    model: CnnLstm
    train_runtime: float
    history: list[dict[str, float]] = field(default_factory=list)


def load_training_set(features: Path, params: CnnLstmParams, clips: ClipParams) -> TrainingSet:
    """Pool the error maps into blocks, which are a hundredth of their size, and cut them into windows.

    Raises:
        VideoError: when a split holds one class only.
    """
    windows: dict[tuple[str, int], list[tuple[Tensor, NDArray[np.bool_]]]] = {}
    normal: list[Tensor] = []
    n_sequences = 0
    for sequence in read_features(features):
        blocks = torch.cat([pool_blocks(torch.from_numpy(part), params.block) for part in sequence])
        if sequence.split == "train":
            n_sequences += 1
            normal.append(blocks[torch.from_numpy(~sequence.mask)])
        for numbers in slide(range(len(blocks)), clips.window, clips.stride):
            part = (blocks[numbers[0] : numbers[-1] + 1], sequence.mask[numbers[0] : numbers[-1] + 1])
            windows.setdefault((sequence.split, len(numbers)), []).append(part)
    sets = {split: _stack(parts for (name, _), parts in windows.items() if name == split) for split in SPLITS}
    for split, group in sets.items():
        classes = {bool(value) for part in group for value in part.y_true.unique()}
        if classes != {False, True}:
            kind = "anomalous" if True not in classes else "normal"
            raise VideoError(f"no {kind} frame in {split}. Add clips, correct the labels, or change video's fractions.")
    return TrainingSet(sets["train"], sets["validation"], _measure_blocks(torch.cat(normal)), n_sequences)


def _measure_blocks(blocks: Tensor) -> BlockStatistics:
    """Statistics of the blocks of normal frames, [frames, timesteps, rows, columns]."""
    groups = (blocks.transpose(0, 1).flatten(1), blocks.amax((2, 3)).T, blocks.mean((2, 3)).T)
    return BlockStatistics(
        *(part.numpy() for group in groups for part in (group.mean(1), group.std(1).clamp(min=1e-3)))
    )


def _stack(groups: Iterable[list[tuple[Tensor, NDArray[np.bool_]]]]) -> list[Windows]:
    return [
        Windows(
            torch.stack([blocks for blocks, _ in parts]),
            torch.from_numpy(np.stack([mask for _, mask in parts]).astype(np.float32)),
        )
        for parts in groups
    ]


def train_cnn_lstm(data: TrainingSet, params: CnnLstmParams, seed: int, bidirectional: bool) -> CnnLstmResult:
    """Train from the largest error on; keep the step with the lowest loss on validation, step 0 included.

    Each member learns from batches of its own; what is judged and kept are moving averages of the weights.
    """
    torch.manual_seed(seed)
    start = time.monotonic()
    model = CnnLstm(data.statistics, params, _measure_change_rate(data.train), bidirectional)
    y_true = _join(group.y_true for group in data.train) > 0
    _calibrate_start(model, data.train, y_true)
    class_weights = torch.from_numpy(0.5 / np.array([(~y_true).mean(), y_true.mean()], np.float32))
    optimizer = torch.optim.AdamW(model.parameters(), params.learning_rate, weight_decay=params.weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, max(params.steps, 1))
    ema = EMAModel(model.parameters(), decay=params.ema_decay)
    rng = np.random.default_rng(seed)
    weights = np.array([len(group.blocks) for group in data.train], float)
    result = CnnLstmResult(model, 0.0)
    best, kept = float("inf"), model.state_dict()
    losses: list[float] = []
    name = "CNN+LSTM" if bidirectional else "CNN+LSTM, causal"
    for step in show_progress(range(params.steps + 1), name):
        if step % params.evaluation_steps == 0 or step == params.steps:
            ema.store(model.parameters())
            ema.copy_to(model.parameters())
            eval_loss = _evaluate(model, data.validation)
            result.history.append({"step": step, "loss": float(np.mean(losses or [np.nan])), "eval_loss": eval_loss})
            losses = []
            if eval_loss < best:
                best, kept = eval_loss, {key: value.clone() for key, value in model.state_dict().items()}
            ema.restore(model.parameters())
        if step < params.steps:
            group = data.train[rng.choice(len(data.train), p=weights / weights.sum())]
            batches = [draw_batch(group, params.batch_size, data.statistics, rng) for _ in model.members]
            logits, truth = model.judge_each([blocks for blocks, _ in batches]), torch.stack([y for _, y in batches])
            loss = binary_cross_entropy_with_logits(logits, truth, weight=class_weights[truth.long()])
            optimizer.zero_grad()
            (len(batches) * loss).backward()  # of each member by itself
            for member in model.members:
                torch.nn.utils.clip_grad_norm_(member.parameters(), 1.0)
            losses.append(loss.item())
            optimizer.step()
            schedule.step()
            ema.step(model.parameters())
    model.load_state_dict(kept)
    model.eval()
    result.train_runtime = time.monotonic() - start
    return result


def draw_batch(
    windows: Windows, size: int, statistics: BlockStatistics, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Draw windows, and make others of them, since few clips show few beginnings and ends of anomalies.

    Half of the windows end as another one does, half are reversed. Each is made louder or quieter as a whole, and its
    anomalous frames once more, as much as normal frames' largest errors vary: the level differs from clip to clip, and
    what is learned must not be the level of these.

    Returns:
        Pooled errors, [size, frames, timesteps, rows, columns], and labels, [size, frames].
    """
    count, frames = windows.y_true.shape
    batch, others = rng.integers(0, count, (2, size))
    ends = torch.from_numpy(np.arange(frames) >= rng.integers(0, 2 * frames, (size, 1)))
    y_true = torch.where(ends, windows.y_true[others], windows.y_true[batch])
    blocks = torch.where(ends[..., None, None, None], windows.blocks[others], windows.blocks[batch])
    reverse = torch.from_numpy(rng.random(size) < 0.5)
    y_true[reverse], blocks[reverse] = y_true[reverse].flip(1), blocks[reverse].flip(1)
    level, anomaly_level = torch.from_numpy(rng.standard_normal((2, size, 1)).astype(np.float32))
    levels = (level + anomaly_level * y_true)[..., None, None, None]
    return blocks + levels * torch.from_numpy(statistics.largest_std).view(-1, 1, 1), y_true


def _measure_change_rate(groups: list[Windows]) -> float:
    """How often the label changes from a frame to the next, as if one more pair of frames had and one had not."""
    changes = sum(float((group.y_true[:, 1:] != group.y_true[:, :-1]).sum()) for group in groups)
    pairs = sum(group.y_true[:, 1:].numel() for group in groups)
    return float((changes + 1) / (pairs + 2))


def _calibrate_start(model: CnnLstm, groups: list[Windows], y_true: NDArray[np.bool_]) -> None:
    """Make the plain score a logit, by what training shows, that weighs as much as a frame does among its like."""
    with torch.inference_mode():
        described = [model.describe(group.blocks) for group in groups]
    weights, offset = _weigh(np.concatenate([part.flatten(0, 1).numpy() for part in described]), y_true)
    scores = [part @ torch.from_numpy(weights) for part in described]
    frames = measure_autocorrelation_time([(s, group.y_true) for s, group in zip(scores, groups, strict=True)])
    model.calibrate((weights / frames).tolist(), offset / frames)


def _weigh(described: NDArray[np.float32], y_true: NDArray[np.bool_]) -> tuple[NDArray[np.float32], float]:
    """Weights and offset of a logistic regression that are not negative: more error can only mean more evidence.

    Of the regressions on some of the numbers, [frames, numbers], whose weights are all positive, the best one is the
    optimum under that constraint; where there is none, nothing is evidence.
    """
    numbers = range(described.shape[1])
    subsets = [list(subset) for size in numbers for subset in combinations(numbers, size + 1)]
    best, weights, offset = math.log(2), np.zeros(len(numbers), np.float32), 0.0
    for subset in subsets:
        fitted, loss = _regress_with_loss(described[:, subset], y_true)
        if loss < best:
            best, weights, offset = loss, np.zeros(len(numbers), np.float32), float(fitted.intercept_[0])
            weights[subset] = fitted.coef_[0]
    return weights, offset


def measure_autocorrelation_time(groups: Iterable[tuple[Tensor, Tensor]]) -> float:
    """How many frames say as much as one would if it stood alone, since their scores rise and fall together.

    That is 1 + 2 Σ ρ, over the lags up to the first without correlation (Sokal, 1997), within windows and labels.

    Args:
        groups: scores and labels, [windows, frames].
    """
    products: dict[int, list[Tensor]] = {}
    for scores, y_true in groups:
        residuals = torch.zeros_like(scores)
        for label in (0, 1):
            mask = y_true == label
            means = (scores * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
            residuals += mask * (scores - means)
        for lag in range(scores.shape[1]):
            end = scores.shape[1] - lag
            same = y_true[:, :end] == y_true[:, lag:]
            products.setdefault(lag, []).append((residuals[:, :end] * residuals[:, lag:])[same])
    covariances = [float(torch.cat(parts).mean()) for _, parts in sorted(products.items())]
    variance, *others = covariances
    related = list(takewhile(lambda covariance: covariance > 0, others))
    return float(1 + 2 * sum(related) / variance) if variance > 0 else 1.0


def _join(parts: Iterable[Tensor]) -> NDArray[np.float32]:
    joined: NDArray[np.float32] = torch.cat([part.flatten() for part in parts]).numpy()
    return joined


def _regress(scores: NDArray[np.float32], y_true: NDArray[np.bool_]) -> LogisticRegression:
    """Fit what makes scores, [frames, numbers], probabilities (Platt, 1999).

    Balanced, since how many anomalies there are says nothing about the world; regularized, since the frames may be
    separable, where the scale would grow without end.
    """
    return LogisticRegression(class_weight="balanced").fit(scores, y_true)


def _regress_with_loss(scores: NDArray[np.float32], y_true: NDArray[np.bool_]) -> tuple[LogisticRegression, float]:
    """Fit as `_regress`; and its loss, both classes counting alike, that of chance where less error is evidence."""
    fitted = _regress(scores, y_true)
    if not (fitted.coef_ > 0).all():
        return fitted, math.log(2)  # of always answering one half
    y_proba = fitted.predict_proba(scores)[:, 1]
    return fitted, float(log_loss(y_true, y_proba, sample_weight=compute_sample_weight("balanced", y_true)))


def _evaluate(model: CnnLstm, groups: list[Windows]) -> float:
    """The loss that calibration leaves, since it follows anyway: what counts is how frames are told apart."""
    model.eval()
    with torch.inference_mode():
        logits = _join(model.judge(group.blocks) for group in groups)
    model.train()
    y_true = _join(group.y_true for group in groups) > 0
    return _regress_with_loss(logits[:, None], y_true)[1]


def calibrate(features: Path, judge: Judge, clips: ClipParams, cost_ratio: float, causal: bool) -> Calibrations:
    """Calibrate the scores of frames and of windows on validation, and choose their thresholds.

    A clip is as anomalous as its most anomalous window, so windows are what its calibration comes from.

    Args:
        judge: as the bundle holds it: what is calibrated is what will run.
        cost_ratio: of a missed anomaly to a false alarm.
    """
    frames: list[tuple[float, bool]] = []
    windows: list[tuple[float, bool]] = []
    for sequence in read_features(features):
        if sequence.split != "validation":
            continue
        items = list(zip(sequence.mask.tolist(), (error for part in sequence for error in part), strict=True))
        if causal:
            judged = list(judge_stream(items, judge, clips.window))
            tops = [top for _, _, top in judged]
            parts = [items[max(end - clips.window, 0) : end] for end in range(1, len(items) + 1)]
        else:
            judged = list(judge_windows(items, judge, clips.window, clips.stride))
            parts = list(slide(items, clips.window, clips.stride))
            tops = [float(judge(np.stack([errors for _, errors in part])[None])[1][0]) for part in parts]
        frames += [(logit, is_anomalous) for (is_anomalous, _), logit, _ in judged]
        windows += [(top, any(mask for mask, _ in part)) for top, part in zip(tops, parts, strict=True)]
    return Calibrations(frame=fit_calibration(frames, cost_ratio), clip=fit_calibration(windows, cost_ratio))


def fit_calibration(scored: list[tuple[float, bool]], cost_ratio: float) -> Calibration:
    """Make logits with their labels probabilities (see `_regress`), and choose the threshold."""
    logits, y_true = (np.array(column) for column in zip(*scored, strict=True))
    if len(set(y_true.tolist())) < 2:
        # With clips that are labeled whole, every window of validation may be of one class.
        log.warning("not calibrated", reason="validation holds one class only", n_samples=len(y_true))
        return Calibration(scale=1.0, offset=0.0, threshold=1 / (1 + cost_ratio))
    regression = _regress(logits[:, None], y_true)
    scale = float(regression.coef_[0, 0])
    if scale <= 0:
        log.warning("scores do not separate validation", scale=round(scale, 3), remedy="train longer, or more footage")
        scale = 1e-3
    calibration = Calibration(scale=scale, offset=float(regression.intercept_[0]), threshold=0.5)
    y_proba = np.array([calibration(logit) for logit in logits])
    return calibration.model_copy(update={"threshold": choose_threshold(y_true, y_proba, cost_ratio)})


def choose_threshold(y_true: NDArray[np.bool_], y_proba: NDArray[np.float64], cost_ratio: float) -> float:
    """The threshold of least cost, where either class is as likely; of equally good ones that in the widest gap.

    Args:
        cost_ratio: of a missed anomaly to a false alarm.
    """
    edges = np.unique(np.concatenate([[0.0], y_proba, [1.0]]))
    thresholds = (edges[:-1] + edges[1:]) / 2
    anomalous, normal = np.sort(y_proba[y_true]), np.sort(y_proba[~y_true])
    missed = np.searchsorted(anomalous, thresholds) / len(anomalous)
    false_alarms = 1 - np.searchsorted(normal, thresholds) / len(normal)
    costs = cost_ratio * missed + false_alarms
    return float(thresholds[np.where(np.isclose(costs, costs.min(), rtol=1e-9), np.diff(edges), -1.0).argmax()])
