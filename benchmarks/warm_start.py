"""What a warm start saves against training anew, in seconds and accuracy, when a new topic has come with labels.

All texts anew; the champion's weights with replay, and without. Run it after `dvc repro`, with nothing else
running: python benchmarks/warm_start.py [--labels 1000] [--seeds 1] [--topics …] [--plans …]
"""

import argparse
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt
from record import save_result
from retraining import COLUMNS, WEIGHTS, Corpus, read_split, retrain, score

from evergreen.params import Params
from evergreen.plots import COLORS, save_figure

RESULT = Path("benchmarks/results/warm_start.json")
TOPICS = ["apple", "coachella", "deflategate", "self-driving"]
N_SCORED = 1000
WARM = {"epochs": 2.0, "learning_rate": 1e-4}
PLANS: dict[str, dict[str, Any]] = {
    "the champion": {},
    "anew, on all texts": {"warm": False},
    "warm, replay 2, half the rate": {"warm": True, "replay_ratio": 2.0, "epochs": 2.0, "learning_rate": 5e-5},
    "warm, replay 2": {"warm": True, "replay_ratio": 2.0, **WARM},
    "warm, replay 1": {"warm": True, "replay_ratio": 1.0, **WARM},
    "warm, no replay": {"warm": True, "replay_ratio": 0.0, **WARM},
}


def measure(plan: str, topic: str, seed: int, n_labels: int, params: Params, folder: Path) -> dict[str, Any]:
    """Train as planned, and score on unseen texts of both topics."""
    params = params.model_copy(update={"seed": params.seed + seed})
    rows = read_split("stream")
    rows = rows[rows["topic"] == topic].sample(frac=1, random_state=params.seed)
    train, test = read_split("train"), read_split("test")
    new = rows[:n_labels].assign(observed_at=train["observed_at"].max() + pd.Timedelta(days=1))
    unseen = rows[n_labels : n_labels + N_SCORED]
    n_held = round(n_labels * params.data.validation_size)
    validation = pd.concat([read_split("validation"), new[:n_held]])
    changes = dict(PLANS[plan])
    if plan == "the champion":  # no step: its weights as they are
        changes = {"warm": True, "epochs": 0.01, "learning_rate": 1e-12, "head_learning_rate": 1e-12}
    warm = changes.pop("warm")
    corpus = Corpus(train, new[n_held:][COLUMNS], validation, test[:0])
    result = retrain(params, corpus, folder, WEIGHTS if warm else None, **changes)
    return {
        "plan": plan,
        "topic": topic,
        "seed": seed,
        "train_runtime": 0.0 if plan == "the champion" else round(result.train_runtime, 1),
        "n_samples": result.n_samples,
        "new_accuracy": score(result, unseen, params),
        "old_accuracy": score(result, test, params),
    }


def main() -> None:
    """Measure, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--topics", nargs="+", default=TOPICS)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    params = Params.load()
    runs = []
    plans = {plan: PLANS[plan] for plan in args.plans}
    for topic, seed, plan in product(args.topics, range(args.seeds), plans):
        with TemporaryDirectory() as folder:
            runs.append(measure(plan, topic, seed, args.labels, params, Path(folder)))
        print(runs[-1], flush=True)
        save_result(args.out, ["torch", "transformers"], labels=args.labels, plans=plans, runs=runs)
    table = pd.DataFrame(runs)
    print(
        table.groupby("plan", sort=False)[["train_runtime", "new_accuracy", "old_accuracy"]].mean().round(3).to_string()
    )
    plot(table, args.out.with_suffix(".png"))


def plot(table: pd.DataFrame, path: Path) -> None:
    """Write the picture: accuracy on the new topics and on the old one against seconds of training."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained", sharex=True)
    for axis, column, title in zip(axes, ["new_accuracy", "old_accuracy"], ["new topics", "old topic"], strict=True):
        for plan, color in zip(table["plan"].unique(), [*COLORS, "black", "gray"], strict=False):
            part = table[table["plan"] == plan]
            axis.plot(part["train_runtime"], part[column], "o", color=color, alpha=0.35)
            axis.plot(part["train_runtime"].mean(), part[column].mean(), "D", color=color, label=plan)
        axis.set_title(f"Accuracy on the {title}")
        axis.set_xlabel("seconds of training")
    axes[0].legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
