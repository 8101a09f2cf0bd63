"""Stage evaluate: the bundle, and nothing else → `metrics/text.json`, plots, the model card, the tracked run."""

from pathlib import Path

from evergreen import stage
from evergreen.params import Params
from evergreen.settings import Settings

DATA, BUNDLE, METRICS = Path("data/text"), Path("models/text"), Path("metrics")
REPORTS, CARD = Path("reports/text"), Path("models/card.md")


def main() -> None:
    """Measure the bundle on the test set, beside the baselines."""
    params = Params.load()
    settings = Settings.load()
    # Imported once the parameters are right, since this takes seconds.
    from evergreen.text.bundle import Bundle
    from evergreen.text.card import render_card
    from evergreen.text.evaluation import evaluate
    from evergreen.text.metrics import DataMetrics, TrainingMetrics
    from evergreen.text.report import write_report
    from evergreen.text.runtime import Classifier
    from evergreen.text.split_files import read_split
    from evergreen.tracking import Run, record
    from evergreen.written import load_written

    bundle = Bundle.load(BUNDLE)
    classifier = Classifier(bundle, params.evaluate.num_threads)
    splits = {name: read_split(DATA, name) for name in ("train", "test", "stream")}
    training = load_written(TrainingMetrics, METRICS / "training.json", "dvc repro train")
    data = load_written(DataMetrics, METRICS / "data.json", "dvc repro preprocess")
    metrics, y_pred = evaluate(classifier, bundle.size_bytes / 1e6, splits, training, params.evaluate, params.seed)
    metrics.save(METRICS / "text.json")
    card = render_card(bundle.manifest, metrics, data)
    CARD.write_text(card, encoding="utf-8")
    plots = write_report(metrics, splits["test"]["label"], y_pred, classifier.labels, REPORTS)
    run = Run.of_bundle(
        bundle.manifest,
        "evaluate",
        params=params.model_dump(mode="json", include={"seed", "evaluate"}),
        metrics={"test": metrics.model_dump()},
        artifacts=[*plots, CARD],
        bundle=BUNDLE,
    )
    flushed = record(run, settings)
    for name, scores in {"this bundle": metrics, **metrics.baselines}.items():
        print(f"{name}: accuracy {scores.accuracy}, macro-F1 {scores.macro_f1}")
    for name, reason in metrics.unfitted_baselines.items():
        print(f"{name}: not fitted ({reason})")
    print(f"run {'kept for later' if flushed.problem else 'recorded'}; card in {CARD}, plots in {REPORTS}")


if __name__ == "__main__":
    stage.run(main)
