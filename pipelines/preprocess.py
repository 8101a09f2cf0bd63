"""Stage preprocess: the corpora of `params.yaml` → `data/text/`, `metrics/data.json`, the monitor's profile."""

import json
from pathlib import Path

from evergreen import params, stage
from evergreen.plots import class_counts
from evergreen.text import corpus, profile

DATA, METRICS, REPORTS = Path("data/text"), Path("metrics"), Path("reports/text")


def main() -> None:
    """Clean, check and split the corpora."""
    chosen = params.load().data
    counts = corpus.prepare(chosen, DATA)
    METRICS.mkdir(exist_ok=True)
    REPORTS.mkdir(parents=True, exist_ok=True)
    summary = profile.summary(counts)
    (METRICS / "data.json").write_text(json.dumps(summary, indent=2) + "\n")
    reference = profile.reference(DATA / "train.parquet", chosen.labels)
    (DATA / "profile.json").write_text(json.dumps(reference, indent=2) + "\n")
    class_counts(summary["topics"], chosen.labels, REPORTS / "data.png")
    kept = ", ".join(f"{side} {size:,}" for side, size in summary["splits"].items())
    print(f"{counts.rows:,} rows: {kept}; {counts.duplicates:,} duplicates, {summary['quarantined']:,} quarantined")


if __name__ == "__main__":
    stage.run(main)
