"""Stage evaluate: the bundle, and nothing else → `metrics/text.json`, plots, the model card, the tracked run."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evergreen import params, plots, stage, tracking
from evergreen.settings import Settings
from evergreen.text import bundle, card, evaluation
from evergreen.text.runtime import Classifier, softmax

DATA, BUNDLE = Path("data/text"), Path("models/text")
METRICS, REPORTS, CARD = Path("metrics"), Path("reports/text"), Path("models/card.md")


def main() -> None:
    """Measure the bundle on the test set, beside the yardsticks."""
    loaded = params.load()
    chosen, seed = loaded.evaluate, loaded.seed
    model = Classifier(BUNDLE, threads=chosen.threads)
    labels = model.labels
    test = pd.read_parquet(DATA / "test.parquet")
    texts, truth = test["text"].tolist(), evaluation.indices(test["label"], labels)
    logits, _ = model.outputs(texts, chosen.batch_size)
    probabilities = softmax(logits / model.manifest.temperature)
    answers = probabilities.argmax(1)
    trained = json.loads((METRICS / "training.json").read_text())
    speed = evaluation.speed(model, texts, chosen)
    curves = {
        "before": evaluation.calibration(truth, softmax(logits), chosen.calibration_bins),
        "after": evaluation.calibration(truth, probabilities, chosen.calibration_bins),
    }
    train = pd.read_parquet(DATA / "train.parquet")
    metrics = {
        **evaluation.scores(truth, answers, chosen, seed),
        "texts": len(texts),
        "confidence": chosen.confidence,
        "per_class": evaluation.per_class(truth, answers, labels),
        "confusion": evaluation.confusion(truth, answers, labels).tolist(),
        "calibration": curves,
        "slices": evaluation.slices(test, truth, answers, chosen, seed),
        "yardsticks": evaluation.yardsticks(train, test, labels, chosen, seed),
        "agreement": trained["agreement"],
        "speed": asdict(speed),
        "size_mb": bundle.size(BUNDLE) / 1e6,
        "cost": evaluation.cost(trained["seconds"], speed.texts_per_second, chosen),
    }
    METRICS.mkdir(exist_ok=True)
    (METRICS / "text.json").write_text(json.dumps(metrics, indent=2) + "\n")
    data = json.loads((METRICS / "data.json").read_text())
    CARD.write_text(card.card(model.manifest, metrics, data), encoding="utf-8")
    _plot(metrics, test["label"].tolist(), [labels[i] for i in answers], labels)
    flushed = tracking.record(
        tracking.Run(
            key=model.manifest.run,
            name=f"text {model.manifest.version}",
            metrics={"test": {k: v for k, v in metrics.items() if k not in ("calibration", "confusion")}},
            tags={"data_hash": model.manifest.data_hash, "stage": "evaluate"},
            artifacts=[*sorted(REPORTS.glob("*.png")), CARD],
            bundle=BUNDLE,
        ),
        Settings(),
    )
    for name in ("accuracy", "macro_f1"):
        score, yardstick = metrics[name], metrics["yardsticks"]["TF-IDF + logistic regression"][name]
        print(
            f"{name} {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f}); TF-IDF {yardstick['value']:.3f}"
        )
    print(f"run {'recorded' if not flushed.problem else 'kept for later'}; card in {CARD}, plots in {REPORTS}")


def _plot(found: dict[str, Any], truth: list[str], answers: list[str], labels: list[str]) -> None:
    """Write the plots: tables for `dvc plots`, pictures for people."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"label": truth, "answered": answers}).to_csv(REPORTS / "confusion.csv", index=False)
    pd.DataFrame(found["calibration"]["after"]).drop(columns="ece").to_csv(REPORTS / "calibration.csv", index=False)
    plots.confusion(np.array(found["confusion"]), labels, REPORTS / "confusion.png")
    plots.reliability(
        {"before temperature": found["calibration"]["before"], "after": found["calibration"]["after"]},
        REPORTS / "calibration.png",
    )
    rows = {**found["yardsticks"], "this bundle": found}
    picked = {name: {metric: row[metric] for metric in ("accuracy", "macro_f1")} for name, row in rows.items()}
    plots.comparison(picked, REPORTS / "comparison.png")


if __name__ == "__main__":
    stage.run(main)
