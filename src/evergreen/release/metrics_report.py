"""Metrics and plots of a change beside those of another revision, as Markdown for a pull request."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evergreen.markdown import make_environment, quote_code
from evergreen.metrics import Estimate
from evergreen.release.champion import find_commit, parse_metrics, run, show_file
from evergreen.text.evaluation_metrics import TextMetrics
from evergreen.text.metrics import DataMetrics
from evergreen.video.metrics import VideoMetrics

_MAX_CHARACTERS = 20_000
_MAX_ROWS = 100
"""Of the table of all metrics; with many classes it has thousands."""
_FILES = {"metrics/text.json": TextMetrics, "metrics/video.json": VideoMetrics, "metrics/data.json": DataMetrics}


@dataclass(frozen=True)
class MetricRow:
    """A metric at both revisions; None where one has none."""

    name: str
    before: str | None
    now: str | None


def render_metrics(revision: str, files_url: str, commit: str) -> str:
    """Compare the metrics in the current folder with a revision's.

    Args:
        revision: as Git names it.
        files_url: of the repository's pages, for the plots; empty: leave them out.
        commit: whose plots are shown as the new ones.

    Raises:
        ChampionError: when there is no such revision or commit.
    """
    shas = [find_commit(name) for name in (revision, commit)]
    rows = [
        row
        for path, kind in _FILES.items()
        for row in _compare(parse_metrics(kind, show_file(revision, path)), parse_metrics(kind, _read(path)))
    ]
    plots = _list_changed_plots(revision, shas, files_url) if files_url else []
    all_metrics = _read_output("dvc", "metrics", "diff", revision, "--md", "--precision", "4")
    template = make_environment(Path(__file__).parent).get_template("metrics_template.md")
    return template.render(
        revision=revision,
        rows=[row for row in rows if row.before != row.now],
        all_metrics=_cut(all_metrics, revision) if all_metrics.count("\n") > 1 else "",
        plots=plots,
    )


def _read(path: str) -> str | None:
    file = Path(path)
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _compare(before: Any, now: Any) -> list[MetricRow]:
    values = [{} if one is None else _list_values(one) for one in (before, now)]
    return [MetricRow(name, values[0].get(name), values[1].get(name)) for name in {**values[0], **values[1]}]


def _list_values(metrics: Any) -> dict[str, str]:
    """What a reviewer looks at first."""
    if isinstance(metrics, TextMetrics):
        estimates: dict[str, Estimate] = {"accuracy": metrics.accuracy, "macro-F1": metrics.macro_f1}
        cost = metrics.cost
        return {name: str(value) for name, value in estimates.items()} | {
            "test texts": f"{metrics.n_samples:,}",
            "size of the text bundle": f"{metrics.size_mb:.1f} MB",
            "cost of the training": f"{cost.training_cost:.4f} {cost.currency}",
        }
    if isinstance(metrics, VideoMetrics):
        return {"video: frame AUC": str(metrics.frame_auc), "video: clip AUC": str(metrics.clip_auc)}
    return {f"texts for {split}": f"{count:,}" for split, count in metrics.splits.items()}


def _list_changed_plots(revision: str, shas: list[str], files_url: str) -> list[tuple[str, ...]]:
    """Path of each plot that differs from a revision's, with its address at each commit; empty where that has none."""
    paths = _read_output("git", "diff", "--name-only", revision, "--", "reports").splitlines()
    trees = {
        sha: set(_read_output("git", "ls-tree", "-r", "--name-only", sha, "--", "reports").splitlines()) for sha in shas
    }
    return [
        (path, *(f"{files_url}/blob/{sha}/{path}?raw=true" if path in trees[sha] else "" for sha in shas))
        for path in paths
        if path.endswith(".png")
    ]


def _cut(table: str, revision: str) -> str:
    rows = table.splitlines()
    shown, left = 0, _MAX_CHARACTERS
    while shown < min(len(rows), _MAX_ROWS) and left >= len(rows[shown]):
        left -= len(rows[shown]) + 1
        shown += 1
    if shown == len(rows):
        return table
    command = quote_code(f"dvc metrics diff {revision}")
    return "\n".join([*rows[:shown], "", f"{len(rows) - shown:,} more rows: {command}"])


def _read_output(*command: str) -> str:
    return run(*command).stdout.strip()
