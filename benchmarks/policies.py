"""When to retrain: accuracy over a stream against the number of retrainings, by policy and order of the topics.

Airline texts, then one topic after another, a few weeks each; half of the texts get their label. Each week the champion
answers, then the policy decides; a retraining starts warm from the champion, with replay and the labels since the last.
Run it after `dvc repro`; orders go side by side with --jobs, and what was trained is kept in .cache/policies:
python benchmarks/policies.py [--orders 3] [--jobs 2]
"""

import argparse
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from record import save_result
from retraining import COLUMNS, WEIGHTS, Corpus, export, read_split, retrain
from staleness_traffic import DAY, START, is_below_threshold, make_monitor, run_evidently, spread

from evergreen.metrics import Metrics
from evergreen.monitoring.log import Feedback, LoggedPrediction, PredictionLog
from evergreen.monitoring.staleness import Verdict
from evergreen.monitoring.windows import Windows
from evergreen.params import Params
from evergreen.plots import COLORS, save_figure
from evergreen.text.runtime import Classifier
from evergreen.text.splits import assign_split, hash_text

RESULT = Path("benchmarks/results/policies.json")
WORK = Path(".cache/policies")
BUNDLE = Path("models/text")
TOPICS = ["apple", "coachella", "deflategate", "other", "self-driving"]
PER_WEEK, OWN_WEEKS, WEEKS_PER_TOPIC, LABELED = 400, 2, 3, 0.5
WARM = {"epochs": 2.0, "learning_rate": 1e-4, "evaluations_per_epoch": 1, "num_threads": 1}


@dataclass(frozen=True)
class Seen:
    """What a policy decides by, at the end of a week."""

    week: int
    windows: Windows
    verdict: Verdict


POLICIES: dict[str, Callable[[Seen], bool]] = {
    "never": lambda _: False,
    "every week": lambda _: True,
    "every 2nd week": lambda seen: seen.week % 2 == 1,
    "every 4th week": lambda seen: seen.week % 4 == 3,
    "Evidently's drift preset": lambda seen: run_evidently(seen.windows, seen.verdict)[0],
    "accuracy threshold": lambda seen: is_below_threshold(seen.windows),
    "Evergreen's verdict": lambda seen: seen.verdict.action == "retrain",
}


class Run(Metrics):
    """A policy over the stream.

    Attributes:
        accuracy: of the champion in each week, before the policy decides.
        retrained: after which weeks.
        n_labels: that were trained on.
        train_runtime: seconds of all trainings, one thread.
    """

    order: int
    policy: str
    accuracy: list[float]
    retrained: list[int]
    n_labels: int
    train_runtime: float


class Trained(Metrics):
    """What a retraining left beside its bundle and weights."""

    n_labels: int
    train_runtime: float


@dataclass(frozen=True)
class Champion:
    """A model in production, with the texts that it was tested on."""

    weights: Path
    bundle: Path
    test: pd.DataFrame
    retrained: tuple[int, ...] = ()


def plan_weeks(order: int) -> list[pd.DataFrame]:
    """The texts of each week, in an order of the topics of its own."""
    topics = np.random.default_rng(order).permutation(TOPICS)
    own = read_split("validation").sample(frac=1, random_state=order)
    stream = read_split("stream")
    parts = [own[PER_WEEK * week : PER_WEEK * (week + 1)] for week in range(OWN_WEEKS)]
    for topic in topics:
        rows = stream[stream["topic"] == topic].sample(PER_WEEK * WEEKS_PER_TOPIC, random_state=order)
        parts += [rows[PER_WEEK * week : PER_WEEK * (week + 1)] for week in range(WEEKS_PER_TOPIC)]
    rng = np.random.default_rng(order)
    return [
        rows.sample(frac=1, random_state=order).assign(observed_at=spread(START + 7 * DAY * week, 7, len(rows), rng))
        for week, rows in enumerate(parts)
    ]


class Stream:
    """One policy's life: its champion, its log, and the labels that came back."""

    def __init__(self, order: int, folder: Path) -> None:
        self.order = order
        self.params = Params.load()
        self.weeks = plan_weeks(order)
        self.log = PredictionLog.open(f"sqlite:///{folder}/log.db")
        self.champion = Champion(WEIGHTS, BUNDLE, read_split("test"))
        self.classifier = Classifier.load(BUNDLE, num_threads=1)
        rng = np.random.default_rng(order)
        self.labeled = [rows[rng.random(len(rows)) < LABELED] for rows in self.weeks]

    def serve(self, week: int) -> float:
        """Answer a week's texts, log them with their labels, and return the accuracy."""
        rows = self.weeks[week]
        predictions = self.classifier.predict(rows["text"].tolist())
        logged = [
            LoggedPrediction(
                uuid.uuid5(uuid.NAMESPACE_URL, f"{self.order} {week} {number}").hex,
                "text",
                "live",
                prediction.label,
                prediction.probabilities,
                self.classifier.manifest.identity,
                time.to_pydatetime(),
                text=text,
            )
            for number, (prediction, text, time) in enumerate(
                zip(predictions, rows["text"], rows["observed_at"], strict=True)
            )
        ]
        known = set(self.labeled[week].index)
        feedback = [
            Feedback(row.id, "user", label, row.observed_at)
            for row, index, label in zip(logged, rows.index, rows["label"], strict=True)
            if index in known
        ]
        self.log.write(logged, feedback)
        return float(np.mean([p.label == label for p, label in zip(predictions, rows["label"], strict=True)]))

    def look(self, week: int) -> Seen:
        """Judge the week as the monitor does."""
        until = START + 7 * DAY * (week + 1)
        monitor = make_monitor(self.params, self.classifier, self.champion.test).follow(self.log)
        verdict, windows = monitor.look(monitor.read_log(self.log, until), until)
        return Seen(week, windows, verdict)

    def retrain(self, week: int) -> Trained:
        """Put a champion in place that has learned the labels since the last retraining; what is trained is kept."""
        retrained = (*self.champion.retrained, week)
        folder = WORK / f"{self.order}" / "-".join(map(str, retrained))
        since = self.champion.retrained[-1] + 1 if self.champion.retrained else 0
        new, old = (
            pd.concat([read_split("train").iloc[:0], *self.labeled[a:b]]) for a, b in ((since, week + 1), (0, since))
        )
        parts = {split: new[self._assign(new) == split] for split in ("train", "validation", "test")}
        test = pd.concat([self.champion.test, parts["test"]])
        if not (folder / "trained.json").exists():
            earlier = old[self._assign(old) == "train"]
            own = read_split("validation")
            unseen = own[~own["text"].isin(pd.concat(self.weeks[:OWN_WEEKS])["text"])]
            validation = pd.concat([unseen, parts["validation"]])
            corpus = Corpus(pd.concat([read_split("train"), earlier])[COLUMNS], parts["train"], validation, test)
            result = retrain(self.params, corpus, folder, self.champion.weights, **WARM)
            export(result, self.params, folder)
            Trained(n_labels=len(new), train_runtime=result.train_runtime).save(folder / "trained.json")
        self.champion = Champion(folder / "weights", folder / "bundle", test, retrained)
        self.classifier = Classifier.load(folder / "bundle", num_threads=1)
        return Trained.load(folder / "trained.json")

    def _assign(self, rows: pd.DataFrame) -> Any:
        """The split of each text, not by the pipeline's hash: it made the stream's airline texts validation."""
        data = self.params.data
        hashes = [hash_text(f"{text} {self.order}") for text in rows["text"]]
        return np.array([assign_split(value, data.validation_size, data.test_size) for value in hashes], object)


def simulate(order: int, policy: str) -> Run:
    """A policy over the whole stream."""
    torch.set_num_threads(1)
    accuracy, retrained, n_labels, seconds = [], [], 0, 0.0
    with TemporaryDirectory() as folder:
        stream = Stream(order, Path(folder))
        for week in range(len(stream.weeks)):
            accuracy.append(stream.serve(week))
            if POLICIES[policy](stream.look(week)):
                trained = stream.retrain(week)
                retrained.append(week)
                n_labels += trained.n_labels
                seconds += trained.train_runtime
    return Run(
        order=order, policy=policy, accuracy=accuracy, retrained=retrained, n_labels=n_labels, train_runtime=seconds
    )


def simulate_order(order: int) -> list[Run]:
    """All policies over one order; they share what they train alike."""
    runs = []
    for policy in POLICIES:
        runs.append(simulate(order, policy))
        print(f"order {order}, {policy}: {np.mean(runs[-1].accuracy):.4f}, {len(runs[-1].retrained)}", flush=True)
    return runs


def main() -> None:
    """Simulate, print, record, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--orders", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    runs: list[Run] = []
    with ProcessPoolExecutor(args.jobs) as pool:
        for future in as_completed([pool.submit(simulate_order, order) for order in range(args.orders)]):
            runs += future.result()
            save(runs, args.out)


def save(runs: list[Run], path: Path) -> None:
    """Write and print what is there so far."""
    params = Params.load()
    table = pd.DataFrame([run.model_dump() for run in runs])
    table["mean_accuracy"] = table["accuracy"].map(np.mean)
    table["n_retrainings"] = table["retrained"].map(len)
    columns = ["mean_accuracy", "n_retrainings", "n_labels", "train_runtime"]
    summary = table.groupby("policy", sort=False)[columns].mean()
    summary["cost"] = summary["train_runtime"] / 3600 * params.evaluate.price_per_hour
    packages = ["torch", "transformers", "evidently", "onnxruntime"]
    setting = {"per_week": PER_WEEK, "weeks_per_topic": WEEKS_PER_TOPIC, "labeled": LABELED, "warm": WARM}
    summarized = summary.round(4).to_dict("index")
    save_result(path, packages, setting=setting, policies=summarized, runs=[run.model_dump() for run in runs])
    print(summary.round(4).to_string(), flush=True)
    plot(table, path.with_suffix(".png"))


def plot(table: pd.DataFrame, path: Path) -> None:
    """Write the picture: the frontier, and the accuracy of each week in the first order."""
    figure, (frontier, weekly) = plt.subplots(1, 2, figsize=(14, 4.5), layout="constrained")
    first = table[table["order"] == table["order"].min()]
    colors = [*COLORS, "black", "gray", "tan"]
    for policy, color in zip(POLICIES, colors, strict=False):
        part = table[table["policy"] == policy]
        frontier.plot(part["n_retrainings"], part["mean_accuracy"], "o", color=color, alpha=0.35)
        frontier.plot(part["n_retrainings"].mean(), part["mean_accuracy"].mean(), "D", color=color, label=policy)
        if policy in {"never", "every week", "Evergreen's verdict"}:
            run = first[first["policy"] == policy].iloc[0]
            weekly.plot(range(1, len(run["accuracy"]) + 1), run["accuracy"], ".-", color=color, label=policy)
            if policy == "Evergreen's verdict":
                for week in run["retrained"]:
                    weekly.axvline(week + 1.5, color=color, linestyle=":", alpha=0.6)
    frontier.set_xlabel("retrainings")
    frontier.set_ylabel("mean accuracy over the stream")
    frontier.legend(loc="lower right")
    weekly.set_xlabel("week (dotted: retraining by the verdict)")
    weekly.set_ylabel("accuracy")
    weekly.legend()
    save_figure(figure, path)


if __name__ == "__main__":
    main()
