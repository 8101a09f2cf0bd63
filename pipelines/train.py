"""Stage train: `data/text/` → the bundle `models/text/`, its torch weights beside it, `metrics/training.json`."""

from pathlib import Path

from evergreen import stage
from evergreen.params import Params
from evergreen.settings import Settings

DATA, BUNDLE, WEIGHTS = Path("data/text"), Path("models/text"), Path("models/text-weights")
METRICS, HISTORY = Path("metrics/training.json"), Path("reports/text/training.csv")


def main() -> None:
    """Train, export, and check that the bundle agrees with the torch model."""
    params = Params.load()
    settings = Settings.load()
    # Imported once the parameters are right, since this takes seconds.
    from evergreen.text.export import check_parity, export_bundle
    from evergreen.text.labels import load_labels
    from evergreen.text.preflight import check_training
    from evergreen.text.training import train
    from evergreen.tracking import Run, record

    labels, checkpoints = load_labels(DATA), settings.state_dir / "checkpoints"
    check_training(params, labels, DATA, checkpoints, [BUNDLE, WEIGHTS, METRICS.parent, HISTORY.parent])
    result = train(params.train, labels, params.seed, DATA, checkpoints)
    weights_hash = result.save_pretrained(WEIGHTS)
    bundle = export_bundle(result, weights_hash, params, DATA, BUNDLE)
    parity = check_parity(bundle, result, DATA / "validation.parquet", params.export, params.evaluate.batch_size)
    result.remove_checkpoints()  # not before: a refused bundle must cost no second training
    metrics = result.summarize(parity, bundle.size_bytes / 1e6)
    metrics.save(METRICS)
    result.save_history(HISTORY)
    run = Run.of_bundle(
        bundle.manifest,
        "train",
        params=params.model_dump(mode="json"),
        metrics=metrics.model_dump(),
        steps=[row for row in result.history if "step" in row],
        artifacts=[HISTORY],
    )
    record(run, settings)
    print(
        f"validation macro-F1 {metrics.validation.macro_f1:.3f} in {metrics.train_runtime:.0f} s; the bundle gives "
        f"the torch model's label for {parity.label_parity:.1%} of {parity.n_samples:,} texts"
    )


if __name__ == "__main__":
    stage.run(main)
