"""What a reviewer reads in a retraining pull request: the verdict first, the evidence below, in a minute."""

import json
from pathlib import Path

from evergreen.markdown import make_environment
from evergreen.metrics import Metrics
from evergreen.monitoring.staleness import Verdict
from evergreen.params import Params
from evergreen.release.champion import find_commit, show_file
from evergreen.release.feedback import FeedbackSummary, load_summary
from evergreen.release.gate import GateResult, SliceDifference
from evergreen.release.proposal_branch import BRANCH, EVIDENCE
from evergreen.text.bundle import Bundle, Manifest
from evergreen.text.evaluation_metrics import TextMetrics
from evergreen.text.metrics import DataMetrics
from evergreen.written import load_written

MAX_CHARACTERS = 60_000
"""GitHub takes 65,536 of a comment."""
_N_SLICES = 6
_PLOTS = {
    "Staleness over time": f"{EVIDENCE}/history.png",
    "Against the baselines": "reports/text/comparison.png",
    "Calibration": "reports/text/calibration.png",
    "Confusion matrix": "reports/text/confusion_matrix.png",
}


class DataChange(Metrics):
    """How the texts of a split changed since the champion."""

    split: str
    before: int | None
    now: int


def render_pull_request(
    gate: GateResult,
    verdict: Verdict | None,
    manifest: Manifest,
    metrics: TextMetrics,
    data: list[DataChange],
    corpora: list[str],
    feedback: FeedbackSummary,
    plots: dict[str, str],
) -> str:
    """Write the report as Markdown.

    Args:
        gate: what it found.
        verdict: why it was retrained; None where nobody looked.
        manifest: of the new bundle.
        metrics: of the new bundle.
        data: texts of each split, before and now.
        corpora: where the texts come from.
        feedback: labels of production among them.
        plots: name and address of each picture.
    """
    newest = next((check.difference for check in gate.checks if check.difference is not None), None)
    moved = [each for each in gate.slices if is_moved(each)]
    template = make_environment(Path(__file__).parent).get_template("pull_request_template.md")
    report = template.render(
        gate=gate,
        newest=newest,
        failed=[check for check in gate.checks if check.status == "failed"],
        compared=[check for check in gate.checks if check.difference is not None],
        moved=moved[:_N_SLICES],
        n_moved=len(moved),
        verdict=verdict,
        manifest=manifest,
        metrics=metrics,
        data=data,
        corpora=corpora,
        feedback=feedback,
        plots=plots,
        branch=BRANCH,
    )
    return _cut(report.strip()) + "\n"


def is_moved(each: SliceDifference) -> bool:
    """Whether chance alone hardly explains a slice's difference."""
    return each.low > 0 or each.high < 0


def collect_report(gate: Path, verdict: Path, revision: str, files_url: str | None = "") -> str:
    """Read what the pipeline, the monitor and the gate left in the current folder, and write the report.

    Args:
        gate: what `evergreen gate` wrote.
        verdict: what `evergreen monitor` wrote; may be missing.
        revision: of the champion.
        files_url: where the commit's files can be seen, for the pictures; empty: here; None: nowhere.

    Raises:
        WrittenFileError: naming the file that is missing or damaged, and the command that makes it.
        ChampionError: when there is no such revision.
    """
    find_commit(revision)  # a name that is misspelled would only have no data
    params = Params.load()
    seen = load_written(Verdict, verdict, "evergreen monitor") if verdict.is_file() else None
    data = load_written(DataMetrics, Path("metrics/data.json"), "dvc repro")
    return render_pull_request(
        load_written(GateResult, gate, "evergreen gate"),
        seen,
        Bundle.load("models/text").manifest,
        load_written(TextMetrics, Path("metrics/text.json"), "dvc repro"),
        compare_data(_read_splits(revision), data),
        params.data.corpora,
        load_summary(Path(params.data.feedback)) if params.data.feedback else FeedbackSummary(),
        {} if files_url is None else _link_plots(files_url),
    )


def _link_plots(files_url: str) -> dict[str, str]:
    files = {name: path for name, path in _PLOTS.items() if Path(path).is_file()}
    return {name: f"{files_url}/{path}?raw=true" for name, path in files.items()} if files_url else files


def compare_data(before: dict[str, int], now: DataMetrics) -> list[DataChange]:
    """Compare the texts of each split."""
    return [DataChange(split=split, before=before.get(split), now=count) for split, count in now.splits.items()]


def _read_splits(revision: str) -> dict[str, int]:
    content = show_file(revision, "metrics/data.json") or ""
    try:
        return {str(split): int(count) for split, count in json.loads(content)["splits"].items()}
    except (ValueError, KeyError, AttributeError, TypeError):  # the revision has none, or another form
        return {}


def _cut(report: str) -> str:
    if len(report) <= MAX_CHARACTERS:
        return report
    # A fence or a detail that stays open would swallow the note.
    return report[:MAX_CHARACTERS].rsplit("\n\n", 1)[0] + "\n\n</details>\n\n*Cut: the rest is in the run's artifact.*"
