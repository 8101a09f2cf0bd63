"""What an operator sees of `ped2.py`'s scores: how late an alarm comes, how many are false, at what cost ratio."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

FPS = 10
"""Of UCSD Ped2."""
COST_RATIOS = (0.1, 0.3, 1.0, 3.0, 10.0)
Mask = NDArray[np.bool_]


class ScoredFold(Protocol):
    """What is read of a fold's result."""

    y_true: dict[str, list[float]]
    scores: dict[str, dict[str, list[float]]]
    thresholds: dict[str, dict[str, float]]


def measure_alarms(folds: Sequence[ScoredFold], row: str) -> list[dict[str, Any]]:
    """Alarms at the threshold that each fold's validation chose, by cost ratio, over the clips of all folds.

    A false alarm is a run of alarming frames that begins where the frame is normal; the highest rate is that of which
    so few would be seen in one of forty times (Garwood, Biometrika 1936).
    """
    rows = []
    for ratio in COST_RATIOS:
        clips = [
            (np.array(mask, bool), np.array(fold.scores[row][clip]) >= fold.thresholds[row][str(ratio)])
            for fold in folds
            for clip, mask in fold.y_true.items()
        ]
        delays = [delay for mask, alarm in clips for delay in find_delays(mask, alarm)]
        found = [delay for delay in delays if delay is not None]
        false_alarms = sum(int(not mask[start]) for mask, alarm in clips for start, _ in find_runs(alarm))
        hours = sum(int((~mask).sum()) for mask, _ in clips) / FPS / 3600
        normal = np.concatenate([alarm[~mask] for mask, alarm in clips])
        anomalous = np.concatenate([alarm[mask] for mask, alarm in clips])
        rows.append(
            {
                "cost_ratio": ratio,
                "events": len(delays),
                "found": len(found),
                "median_delay_seconds": float(np.median(found)) / FPS if found else None,
                "longest_delay_seconds": max(found) / FPS if found else None,
                "alarming_anomalous_frames": float(anomalous.mean()),
                "alarming_normal_frames": float(normal.mean()),
                "normal_seconds": hours * 3600,
                "false_alarms": false_alarms,
                "false_alarms_per_hour": false_alarms / hours,
                "highest_false_alarms_per_hour": float(chi2.ppf(0.975, 2 * false_alarms + 2)) / 2 / hours,
            }
        )
    return rows


def find_delays(mask: Mask, alarm: Mask) -> Iterator[int | None]:
    """Frames from the start of each anomaly to the first that alarms; None where none does before its end."""
    for start, stop in find_runs(mask):
        alarming = np.flatnonzero(alarm[start:stop])
        yield int(alarming[0]) if len(alarming) else None


def find_runs(mask: Mask) -> Iterator[tuple[int, int]]:
    """Start and stop of consecutive true values."""
    position = 0
    for value, run in groupby(mask.tolist()):
        length = len(list(run))
        if value:
            yield position, position + length
        position += length
