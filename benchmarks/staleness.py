"""How often a verdict is wrong, beside Evidently's drift preset and an accuracy threshold on the same windows.

False alarms in months in which nothing changes, with weekly and with hourly looks; power at the first window of another
topic; windows until a topic that grows is noticed. Run it after `dvc repro`; months go side by side with --jobs:
python benchmarks/staleness.py [--months 200] [--draws 100] [--jobs 2]
"""

import argparse
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from record import save_result
from scipy.stats import binomtest
from staleness_traffic import (
    DAY,
    START,
    Looker,
    Traffic,
    load_classifier,
    make_monitor,
    read_texts,
    spread,
    with_looks,
)

from evergreen.monitoring.monitor import Monitor
from evergreen.params import Params
from evergreen.plots import COLORS, save_figure
from evergreen.progress import show_progress
from evergreen.text.runtime import Classifier

RESULT = Path("benchmarks/results/staleness.json")
METHODS = {
    "stale": "Evergreen: stale",
    "any_alarm": "Evergreen: any alarm",
    "evidently": "Evidently: dataset drift",
    "evidently_any": "Evidently: any column",
    "threshold": "accuracy threshold",
}
N_REFERENCE, PER_DAY, LABELED = 1500, 40, 0.3
"""Of a stationary month: texts to compare with, texts a day, and the fraction whose label comes back."""
N_SHIFTED = 500
N_GROWING, GROWTH = 220, (0.0, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)
"""Texts a week, and the new topic's part of them week by week; unseen airline texts suffice for no more."""
EVIDENTLY_MONTHS = 40
"""Of the months with hourly looks: those in which Evidently looks, too."""


@cache
def load() -> tuple[Params, Classifier]:
    """What every simulation shares in its process."""
    return Params.load(), load_classifier()


@cache
def load_monitor(look_days: int) -> Monitor:
    """The champion with its own test set."""
    params, classifier = load()
    texts = read_texts()
    return make_monitor(with_looks(params, look_days), classifier, texts[texts["split"] == "test"])


def simulate_month(schedule: str, seed: int) -> dict[str, bool]:
    """A month of airline texts after a month's history: which method gives an alarm at any of its looks.

    Test and validation texts, none of which was trained on, are dealt anew into reference and traffic each month.
    """
    params, classifier = load()
    rng = np.random.default_rng(seed)
    texts = read_texts()
    texts = texts[texts["split"] != "stream"].sample(frac=1, random_state=seed)
    days = params.monitor.window_days + params.monitor.budget_days
    traffic = texts.iloc[N_REFERENCE : N_REFERENCE + days * PER_DAY]
    look_days = 7 if schedule == "weekly" else 1
    monitor = make_monitor(with_looks(params, look_days), classifier, texts.iloc[:N_REFERENCE])
    times = spread(START, days, len(traffic), rng)
    with_evidently = schedule == "weekly" or seed < EVIDENTLY_MONTHS
    looker = Looker(monitor, Traffic.make(traffic, times, classifier, LABELED, seed), with_evidently)
    first, last = START + params.monitor.window_days * DAY, START + days * DAY
    if schedule == "weekly":
        looks = [looker.look(until, until) for until in (first + 7 * DAY * week for week in range(5)) if until <= last]
    else:
        looks = [looker.look(_find_midnight(now), now) for now in looker.find_moments(first, last - DAY)]
    return {name: any(getattr(look, name) for look in looks) for name in METHODS if getattr(looks[0], name) is not None}


def _find_midnight(now: Any) -> Any:
    return now.replace(hour=0, minute=0, second=0, microsecond=0)


def simulate_shift(topic: str, seed: int) -> dict[str, bool]:
    """The first window, 500 texts of another topic: which method gives an alarm, without a label and with some."""
    _, classifier = load()
    monitor = load_monitor(1)
    texts = read_texts()
    drawn = texts[texts["topic"] == topic].sample(N_SHIFTED, random_state=seed)
    width = monitor.params.monitor.window_days
    times = spread(START, width, N_SHIFTED, np.random.default_rng(seed))
    until = START + width * DAY
    looks = {
        "": Looker(monitor, Traffic.make(drawn, times, classifier, 0, seed), True).look(until, until),
        "_labeled": Looker(monitor, Traffic.make(drawn, times, classifier, LABELED, seed), False).look(until, until),
    }
    alarms = {name: getattr(looks[""], name) for name in METHODS if name != "threshold"}
    return alarms | {f"{name}_labeled": getattr(looks["_labeled"], name) for name in ("stale", "threshold")}


def simulate_growth(topic: str, seed: int) -> dict[str, int]:
    """Weekly windows in which a topic grows: at which each method gives its first alarm; one past the last if none."""
    _, classifier = load()
    monitor = load_monitor(7)
    texts = read_texts()
    own = texts[texts["split"] == "validation"].sample(frac=1, random_state=seed)
    other = texts[texts["topic"] == topic].sample(frac=1, random_state=seed)
    parts = []
    for part in GROWTH:
        n_other = round(part * N_GROWING)
        drawn = pd.concat([own[: N_GROWING - n_other], other[:n_other]]).sample(frac=1, random_state=seed)
        own, other = own[N_GROWING - n_other :], other[n_other:]
        parts.append(drawn)
    rng = np.random.default_rng(seed)
    times = [time for week in range(len(GROWTH)) for time in spread(START + 7 * DAY * week, 7, N_GROWING, rng)]
    looker = Looker(monitor, Traffic.make(pd.concat(parts), times, classifier, LABELED, seed), True)
    ends = [START + 7 * DAY * (week + 1) for week in range(len(GROWTH))]
    looks = [looker.look(until, until) for until in ends]
    return {name: _find_first([getattr(look, name) for look in looks]) for name in METHODS}


def _find_first(alarms: list[bool]) -> int:
    return next((week for week, alarm in enumerate(alarms) if alarm), len(alarms))


def estimate_rates(results: list[dict[str, bool]]) -> dict[str, Any]:
    """The fraction of each method's simulations with an alarm, with Wilson's 95% interval."""
    rates: dict[str, Any] = {}
    for name in dict.fromkeys(name for result in results for name in result):
        alarms = [result[name] for result in results if name in result]
        test = binomtest(sum(alarms), len(alarms))
        interval = test.proportion_ci(0.95, "wilson")
        rates[name] = {"rate": test.statistic, "low": interval.low, "high": interval.high, "n": len(alarms)}
    return rates


def run(work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]], jobs: int, what: str) -> list[Any]:
    """Do work side by side, with progress shown."""
    with ProcessPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, *values) for values in arguments]
        return [future.result() for future in show_progress(futures, what)]


def main() -> None:
    """Simulate, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", type=int, default=200)
    parser.add_argument("--draws", type=int, default=100, help="of each topic's first window")
    parser.add_argument("--growths", type=int, default=20, help="of each topic")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    topics = sorted(set(read_texts().query("split == 'stream'")["topic"]))
    false_alarms = {
        schedule: estimate_rates(
            run(
                partial(simulate_month, schedule),
                ((s,) for s in range(args.months)),
                args.jobs,
                f"months, {schedule} looks",
            )
        )
        for schedule in ("weekly", "hourly")
    }
    power: dict[str, Any] = {}
    for topic in topics:
        power[topic] = estimate_rates(
            run(
                partial(simulate_shift, topic), ((s,) for s in range(args.draws)), args.jobs, f"first window of {topic}"
            )
        )
    growths = run(simulate_growth, product(topics, range(args.growths)), args.jobs, "growing topics")
    delays = {
        name: {"mean": float(np.mean(weeks)), "missed": sum(week == len(GROWTH) for week in weeks), "weeks": weeks}
        for name in METHODS
        for weeks in [[growth[name] for growth in growths]]
    }
    save_result(
        args.out,
        ["evidently", "numpy", "scipy", "onnxruntime"],
        months=args.months,
        budget=Params.load().monitor.false_alarm_rate,
        false_alarms=false_alarms,
        power=power,
        growth=list(GROWTH),
        delays=delays,
    )
    print(pd.DataFrame({k: {m: v["rate"] for m, v in rates.items()} for k, rates in (false_alarms | power).items()}))
    print({name: delay["mean"] for name, delay in delays.items()})
    plot(false_alarms, power, delays, args.out.with_suffix(".png"))


def plot(false_alarms: dict[str, Any], power: dict[str, Any], delays: dict[str, Any], path: Path) -> None:
    """Write the picture: false alarms, power, and the part of a growing topic at which each method noticed it."""
    figure, axes = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    names = list(METHODS)
    for offset, (schedule, color) in enumerate(zip(false_alarms, COLORS, strict=False)):
        rates = [false_alarms[schedule][name] for name in names]
        values = [rate["rate"] for rate in rates]
        errors = [
            [v - r["low"] for v, r in zip(values, rates, strict=True)],
            [r["high"] - v for v, r in zip(values, rates, strict=True)],
        ]
        axes[0].barh(
            np.arange(len(names)) + 0.4 * offset, values, 0.38, xerr=errors, color=color, label=f"{schedule} looks"
        )
    axes[0].axvline(Params.load().monitor.false_alarm_rate, color="black", linestyle=":", label="budget")
    axes[0].set_yticks(np.arange(len(names)) + 0.2, [METHODS[name] for name in names])
    axes[0].set_xlabel("months with a false alarm")
    axes[0].set_xlim(0, 1)
    axes[0].set_title("Nothing changes")
    axes[0].legend()
    shown = ["stale", "evidently", "evidently_any", "stale_labeled", "threshold_labeled"]
    labels = [
        METHODS[name.removesuffix("_labeled")] + (", with labels" if "_labeled" in name else "") for name in shown
    ]
    table = np.array([[rates[name]["rate"] for name in shown] for rates in power.values()])
    axes[1].imshow(table, vmin=0, vmax=1, cmap="Greens", aspect="auto")
    for (row, column), value in np.ndenumerate(table):
        axes[1].text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else "black")
    axes[1].set_xticks(range(len(shown)), labels, rotation=25, ha="right")
    axes[1].set_yticks(range(len(power)), list(power))
    axes[1].set_title("First window of another topic")
    for name, color in zip(("stale", "evidently", "threshold"), COLORS, strict=False):
        weeks = np.array(delays[name]["weeks"])
        axes[2].step(
            range(len(GROWTH)),
            [(weeks <= week).mean() for week in range(len(GROWTH))],
            where="post",
            color=color,
            label=METHODS[name],
        )
    axes[2].set_xticks(range(len(GROWTH)), [f"{part:.0%}" for part in GROWTH])
    axes[2].set_xlabel("part of the new topic, week by week")
    axes[2].set_ylabel("noticed")
    axes[2].set_ylim(0, 1.02)
    axes[2].set_title("A topic that grows")
    axes[2].legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2)
    save_figure(figure, path)


if __name__ == "__main__":
    main()
