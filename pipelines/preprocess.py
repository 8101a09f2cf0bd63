"""Stage preprocess: the corpora of `params.yaml` → `data/text/`, `metrics/data.json`, a plot."""

from pathlib import Path

from evergreen import stage
from evergreen.params import Params

DATA, METRICS, REPORTS = Path("data/text"), Path("metrics"), Path("reports/text")


def main() -> None:
    """Clean, check and split the corpora."""
    params = Params.load().data
    # Imported once the parameters are right, since this takes seconds.
    from evergreen.plots import plot_class_counts
    from evergreen.text.corpus import prepare
    from evergreen.text.summary import summarize

    stats = prepare(params, DATA)
    metrics = summarize(stats)
    metrics.save(METRICS / "data.json")
    plot_class_counts(metrics.topics, stats.labels, REPORTS / "data.png")
    splits = ", ".join(f"{split} {size:,}" for split, size in metrics.splits.items())
    dropped = f"{stats.duplicates:,} duplicates, {stats.near_empty:,} near-empty, {metrics.quarantined:,} quarantined"
    simulated = f"; {stats.simulated_times:,} times simulated" if stats.simulated_times else ""
    print(f"{stats.rows:,} rows: {splits}; {dropped}{simulated}")


if __name__ == "__main__":
    stage.run(main)
