"""Measurement of the bundle on sequences that no model has seen, beside the difference of frames."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from evergreen.metrics import Estimate
from evergreen.params import EvaluateParams
from evergreen.video.bundle import Manifest
from evergreen.video.clips import Frame, VideoError
from evergreen.video.detector import Detector, ScoredFrame
from evergreen.video.metrics import Baseline, DetectionScores
from evergreen.video.sequences import Sequence

Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]
Statistic = Callable[[Mask, Scores], float]


@dataclass
class ScoredSequence:
    """A sequence with the scores of its frames, [frames], its own, and that of the difference of frames, [frames].

    `worst` is the frame of the highest score, of those that are anomalous where some are.
    """

    sequence: Sequence
    y_proba: Scores
    clip_proba: float
    frame_difference: Scores
    worst: ScoredFrame


def score_sequences(detector: Detector, sequences: Iterable[Sequence]) -> Iterator[ScoredSequence]:
    """Run the bundle over sequences."""
    for sequence in sequences:
        images = np.concatenate([sequence.lead, sequence.images])
        frames = (Frame(number, number / sequence.fps, image, image) for number, image in enumerate(images))
        scored = list(detector.score(frames))[len(sequence.lead) :]
        yield ScoredSequence(
            sequence,
            np.array([frame.y_proba for frame in scored]),
            max(frame.clip_proba for frame in scored),
            measure_difference(images, detector.manifest)[len(sequence.lead) :],
            _find_worst(scored, sequence.mask),
        )


def _find_worst(scored: list[ScoredFrame], mask: Mask) -> ScoredFrame:
    """Of the anomalous frames, where there are some."""
    candidates = [frame for frame, anomalous in zip(scored, mask, strict=True) if anomalous or not mask.any()]
    return max(candidates, key=lambda frame: frame.y_proba)


def measure_difference(images: NDArray[np.uint8], manifest: Manifest) -> Scores:
    """Largest block's absolute difference of each frame from the one before, averaged over five frames, [frames]."""
    gray = images.mean(-1, dtype=np.float32)
    changes = np.abs(np.diff(gray, axis=0, prepend=gray[:1]))
    changes[changes.mean((1, 2)) >= (manifest.clips.cut_threshold or np.inf)] = (
        0  # a cut is none to the detector either
    )
    largest = np.array([cv2.blur(change, (manifest.block, manifest.block)).max() for change in changes])
    padded = np.pad(largest, 2, mode="edge")
    smoothed: Scores = np.convolve(padded, np.full(5, 0.2), "valid")
    return smoothed


def measure_scores(
    scored: list[ScoredSequence], detector: Detector, params: EvaluateParams, seed: int
) -> tuple[DetectionScores, Baseline]:
    """Scores of the bundle and of the difference of frames, with intervals over clips.

    Raises:
        VideoError: when the test frames are of one class only.
    """
    groups: dict[str, list[ScoredSequence]] = {}
    for item in scored:
        groups.setdefault(item.sequence.group, []).append(item)
    calibrations = detector.manifest.offline

    def collect(score: Callable[[ScoredSequence], Scores]) -> list[tuple[Mask, Scores]]:
        return [
            (np.concatenate([s.sequence.mask for s in group]), np.concatenate([score(s) for s in group]))
            for group in groups.values()
        ]

    def collect_clips(score: Callable[[ScoredSequence], float]) -> list[tuple[Mask, Scores]]:
        return [
            (np.array([any(s.sequence.mask.any() for s in group)]), np.array([max(score(s) for s in group)]))
            for group in groups.values()
        ]

    def estimate(groups: list[tuple[Mask, Scores]], statistic: Statistic) -> Estimate | None:
        return _estimate(groups, statistic, params, seed)

    frames, clips = collect(lambda s: s.y_proba), collect_clips(lambda s: s.clip_proba)
    changes, clip_changes = (
        collect(lambda s: s.frame_difference),
        collect_clips(lambda s: float(s.frame_difference.max())),
    )
    statistics = {"auc": roc_auc_score, "ap": average_precision_score, "eer": measure_eer}
    values = {
        f"{level}_{name}": estimate(part, statistic)
        for level, part in (("frame", frames), ("clip", clips))
        for name, statistic in statistics.items()
    }
    values["frame_f1"] = estimate(frames, _f1_at(calibrations.frame.threshold))
    values["clip_f1"] = estimate(clips, _f1_at(calibrations.clip.threshold))
    if values["frame_auc"] is None:
        raise VideoError("the test frames are of one class only. Add clips, or correct the labels.")
    baseline = Baseline(frame_auc=estimate(changes, roc_auc_score), clip_auc=estimate(clip_changes, roc_auc_score))
    return DetectionScores.model_validate(values), baseline


def measure_kinds(scored: list[ScoredSequence]) -> dict[str, float]:
    """Frame AUC of each kind of anomaly against all normal frames."""
    normal = np.concatenate([s.y_proba[~s.sequence.mask] for s in scored])
    kinds = {}
    for kind in sorted({s.sequence.kind for s in scored} - {"normal"}):
        anomalous = np.concatenate([s.y_proba[s.sequence.mask] for s in scored if s.sequence.kind == kind])
        y_true = np.repeat([False, True], [len(normal), len(anomalous)])
        kinds[kind] = float(roc_auc_score(y_true, np.concatenate([normal, anomalous])))
    return kinds


def measure_eer(y_true: Mask, y_score: Scores) -> float:
    """Equal error rate: where misses and false alarms are equally many, between the two nearest thresholds."""
    false_alarms, hits, _ = roc_curve(y_true, y_score)
    misses = 1 - hits
    after = int(np.argmax(false_alarms >= misses))
    before = max(after - 1, 0)
    gaps = (misses - false_alarms)[[before, after]]
    fraction = gaps[0] / (gaps[0] - gaps[1]) if gaps[0] != gaps[1] else 0.0
    return float(false_alarms[before] + fraction * (false_alarms[after] - false_alarms[before]))


def _f1_at(threshold: float) -> Statistic:
    return lambda y_true, y_score: float(f1_score(y_true, y_score >= threshold, zero_division=0.0))


def _estimate(
    groups: list[tuple[Mask, Scores]], statistic: Statistic, params: EvaluateParams, seed: int
) -> Estimate | None:
    """A statistic over pooled groups with its bootstrap interval over groups; None where all are of one class.

    Groups with and without anomalies are drawn each for themselves, and may be few: scipy's bootstrap wants two of
    each.
    """
    y_true, y_score = (np.concatenate(column) for column in zip(*groups, strict=True))
    if y_true.all() or not y_true.any():
        return None
    rng = np.random.default_rng(seed)
    anomalous = np.array([mask.any() for mask, _ in groups])
    strata = [np.flatnonzero(anomalous == value) for value in (True, False)]
    values = []
    for _ in range(params.n_resamples):
        drawn = np.concatenate([rng.choice(stratum, len(stratum)) for stratum in strata if len(stratum)])
        mask, score = (np.concatenate([groups[i][part] for i in drawn]) for part in (0, 1))
        if mask.any() and not mask.all():
            values.append(statistic(mask, score))
    tail = (1 - params.confidence_level) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Estimate(value=float(statistic(y_true, y_score)), low=float(low), high=float(high))
