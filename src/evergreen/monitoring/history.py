"""The verdicts over time: a line of JSON for each look, and the plot of it."""

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import matplotlib.dates as mdates
from matplotlib import pyplot as plt

from evergreen.files import write_whole
from evergreen.metrics import Metrics
from evergreen.monitoring.staleness import Verdict, VerdictStatus
from evergreen.plots import COLORS, save_figure

STATUS_COLORS: dict[VerdictStatus, str] = {"fresh": "#3ca951", "watch": "#efb118", "stale": "#ff725c"}


class Point(Metrics):
    """What the history keeps of one signal at one look."""

    status: str
    value: float | None
    low: float | None
    high: float | None
    threshold: float | None


class Look(Metrics):
    """What the history keeps of one look."""

    until: datetime
    model: str
    status: VerdictStatus
    summary: str
    signals: dict[str, Point]


def extend_history(verdict: Verdict, path: Path) -> list[Look]:
    """Add a verdict to the history in a file, in place of an earlier one of the same look; return all, by time.

    Args:
        verdict: of the newest look, or of one that is repeated.
        path: JSON lines; made where there is none. A line that can't be read is left out.
    """
    points = {
        reason.signal: Point.model_validate(reason.model_dump(include=set(Point.model_fields)))
        for reason in verdict.signals
    }
    look = Look(
        until=verdict.until, model=verdict.model, status=verdict.status, summary=verdict.summary, signals=points
    )
    looks = [earlier for earlier in read_history(path) if earlier.until != look.until]
    looks = sorted([*looks, look], key=lambda each: each.until)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, *(f"{each.model_dump_json()}\n".encode() for each in looks))
    return looks


def read_history(path: Path) -> list[Look]:
    """Read a history; none where there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    looks = []
    for line in lines:
        try:
            looks.append(Look.model_validate(json.loads(line)))
        except ValueError:  # cut by a loss of power, say: one look less in a plot
            continue
    return looks


def plot_history(looks: list[Look], titles: dict[str, str], path: Path) -> None:
    """Draw each signal over time with its interval and threshold, alarms marked, above the verdicts.

    Args:
        looks: by time, at least one.
        titles: names of the signals for people, in the order of the panels.
        path: of the picture.
    """
    names = [name for name in titles if any(_get_value(look, name) is not None for look in looks)]
    figure, panels = plt.subplots(
        len(names) + 1,
        1,
        figsize=(8, 1.35 * len(names) + 1.0),
        sharex=True,
        squeeze=False,
        layout="constrained",
        height_ratios=[*[3] * len(names), 1],
    )
    for axes, name in zip(panels[:, 0], names, strict=False):
        _draw_signal(axes, [look for look in looks if _get_value(look, name) is not None], name, titles[name])
    axes = panels[-1, 0]
    for look in looks:
        axes.plot(look.until, 0, marker="s", markersize=9, color=STATUS_COLORS[look.status], clip_on=False)
    for status, color in STATUS_COLORS.items():
        axes.plot([], [], marker="s", linestyle="none", color=color, label=status)
    axes.set(yticks=[], ylim=(-1, 1))
    axes.set_ylabel("verdict", rotation=0, ha="right", va="center")
    axes.spines["left"].set_visible(False)
    day = timedelta(days=1)
    axes.set_xlim(looks[0].until - day, looks[-1].until + day)
    locator = mdates.AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(mdates.ConciseDateFormatter(locator))
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    save_figure(figure, path)


def _get_value(look: Look, name: str) -> float | None:
    return look.signals[name].value if name in look.signals else None


def _draw_signal(axes: Any, looks: list[Look], name: str, title: str) -> None:
    points = [look.signals[name] for look in looks]
    times = [look.until for look in looks]
    values = [point.value for point in points]
    bounds = [(point.low, point.high) for point in points]
    if all(low is not None for low, _ in bounds):
        axes.fill_between(times, *zip(*bounds, strict=True), color=COLORS[0], alpha=0.2, linewidth=0)
        if len(times) == 1:  # an area needs two
            axes.vlines(times, *bounds[0], color=COLORS[0], alpha=0.4)
    axes.plot(times, values, color=COLORS[0], marker=".", linewidth=1.2)
    thresholds = [(time, point.threshold) for time, point in zip(times, points, strict=True) if point.threshold]
    if thresholds:
        axes.plot(*zip(*thresholds, strict=True), color="grey", linewidth=1, linestyle=":", marker="_")
    alarms = [(time, point.value) for time, point in zip(times, points, strict=True) if point.status == "alarm"]
    if alarms:
        axes.plot(*zip(*alarms, strict=True), linestyle="none", marker="o", color=STATUS_COLORS["stale"])
    axes.set_title(title, fontsize=9)
    axes.margins(y=0.15)
