"""What labels are worth that each strategy selects: accuracy on a new topic and on the old one after a warm start.

A week brings texts of the old topic and of a new one, without labels; a strategy selects some, and the champion learns
from their labels, with replay. Run it after `dvc repro`, with nothing else running:
python benchmarks/label_budget.py [--budget 200] [--seeds 3] [--topics …] [--strategies …]
A topic that is rare in the week: --new 100 --old 1100 --out benchmarks/results/label_budget_rare.json
"""

import argparse
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from record import save_result
from retraining import COLUMNS, WEIGHTS, Corpus, read_split, retrain, score
from staleness_traffic import DAY, START, Traffic, load_classifier, read_texts, spread

from evergreen.monitoring.label_selection import Candidates, read_candidates, select
from evergreen.params import LabelingParams, Params, Strategy
from evergreen.plots import COLORS, save_figure
from evergreen.progress import show_progress
from evergreen.text.runtime import Classifier

RESULT = Path("benchmarks/results/label_budget.json")
TOPICS = ["coachella", "deflategate", "self-driving"]
N_SCORED = 800
WARM = {"epochs": 4.0, "learning_rate": 1e-4}
PLANS: dict[str, tuple[Strategy, float]] = {strategy: (strategy, 0.0) for strategy in get_args(Strategy)}
PLANS["combined, half at random"] = ("combined", 0.5)


@dataclass(frozen=True)
class Week:
    """How many texts of either topic a week brings."""

    old: int
    new: int


def make_window(topic: str, seed: int, week: Week, classifier: Classifier) -> tuple[pd.DataFrame, Candidates]:
    """A week's texts with their labels, and what the log shows of them."""
    texts = read_texts()
    old = texts[texts["split"] == "validation"].sample(week.old, random_state=seed)
    new = texts[texts["topic"] == topic].sample(week.new, random_state=seed)
    rows = pd.concat([old, new]).sample(frac=1, random_state=seed).reset_index(drop=True)
    times = spread(START, 7, len(rows), np.random.default_rng(seed))
    traffic = Traffic.make(rows, times, classifier, 0, seed)
    return rows, read_candidates(traffic.rows, classifier, START, START + 7 * DAY, len(rows))


def measure(plan: str, topic: str, seed: int, budget: int, week: Week, folder: Path) -> dict[str, float]:
    """Select, learn, and score on texts of both topics that were not in the week."""
    params, classifier = Params.load(), load_classifier()
    rows, candidates = make_window(topic, seed, week, classifier)
    test = read_split("test")
    reference = classifier.forward(test["text"].tolist())[1]
    strategy, fraction = PLANS[plan]
    labeling = LabelingParams(strategy=strategy, random_fraction=fraction)
    texts = {selection.prediction.text for selection in select(candidates, reference, budget, labeling, seed)}
    train = read_split("train")
    chosen = rows[rows["text"].isin(texts)].assign(observed_at=train["observed_at"].max() + pd.Timedelta(days=1))
    n_held = round(len(chosen) * params.data.validation_size)
    unseen = read_texts()
    unseen = unseen[(unseen["topic"] == topic) & ~unseen["text"].isin(rows["text"])].sample(N_SCORED, random_state=seed)
    validation = pd.concat([read_split("validation").sample(300, random_state=seed), chosen[COLUMNS][:n_held]])
    corpus = Corpus(train, chosen[COLUMNS][n_held:], validation, test[:0])
    result = retrain(params, corpus, folder, WEIGHTS, **WARM)
    scored = {"new_accuracy": unseen, "old_accuracy": test.sample(N_SCORED, random_state=seed)}
    figures = {name: score(result, part, params) for name, part in scored.items()}
    return figures | {
        "new_topic": float((chosen["topic"] == topic).mean()),
        **{f"before_{name}": _score_champion(classifier, part) for name, part in scored.items()},
    }


def _score_champion(classifier: Classifier, rows: pd.DataFrame) -> float:
    answers = classifier.predict_proba(rows["text"].tolist()).argmax(1)
    return float((answers == [classifier.labels.index(label) for label in rows["label"]]).mean())


def main() -> None:
    """Measure, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--topics", nargs="+", default=TOPICS)
    parser.add_argument("--strategies", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--old", type=int, default=400, help="texts of the old topic in the week")
    parser.add_argument("--new", type=int, default=800)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    week = Week(args.old, args.new)
    setting = {"budget": args.budget, "week": asdict(week), "warm": WARM}
    runs: list[dict[str, Any]] = []
    cases = list(product(range(args.seeds), args.topics, args.strategies))
    for seed, topic, plan in show_progress(cases, "trainings"):
        with TemporaryDirectory() as folder:
            figures = measure(plan, topic, seed, args.budget, week, Path(folder))
        runs.append({"strategy": plan, "topic": topic, "seed": seed, **figures})
        print(runs[-1], flush=True)
        save_result(args.out, ["torch", "transformers", "scikit-learn"], **setting, runs=runs)
    table = pd.DataFrame(runs)
    columns = ["new_accuracy", "before_new_accuracy", "old_accuracy", "before_old_accuracy", "new_topic"]
    print(table.groupby("strategy", sort=False)[columns].mean().round(3).to_string())
    plot(table, args.out.with_suffix(".png"))


def plot(table: pd.DataFrame, path: Path) -> None:
    """Write the picture: gain on the new topic by strategy, a point a window, with the mean."""
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    table = table.assign(gain=table["new_accuracy"] - table["before_new_accuracy"])
    names = list(dict.fromkeys(table["strategy"]))
    for topic, color in zip(dict.fromkeys(table["topic"]), COLORS, strict=False):
        part = table[table["topic"] == topic]
        axis.plot(
            part["gain"], [names.index(name) for name in part["strategy"]], "o", color=color, label=topic, alpha=0.7
        )
    for position, name in enumerate(names):
        axis.plot(table.loc[table["strategy"] == name, "gain"].mean(), position, "k|", markersize=22, markeredgewidth=2)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("accuracy gained on the new topic (bar: mean)")
    axis.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
