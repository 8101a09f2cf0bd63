"""What a look of the monitor leaves in `reports/monitoring/`: the verdict, a page that explains it, the plots."""

import base64
from pathlib import Path

from evidently.core.report import Snapshot

from evergreen.files import write_whole
from evergreen.markdown import make_environment
from evergreen.monitoring.drift_report import make_drift_report
from evergreen.monitoring.history import STATUS_COLORS, extend_history, plot_history
from evergreen.monitoring.staleness import Verdict
from evergreen.monitoring.windows import Windows

VERDICT, PAGE, DRIFT_PAGE, DRIFT_JSON = "verdict.json", "report.html", "drift.html", "drift.json"
HISTORY, HISTORY_PLOT = "history.jsonl", "history.png"

_RULES = {
    "alone": "makes the verdict stale",
    "company": "stale with another one, else watch",
    "input": "watch: broken input",
    "watch": "watch",
}


def write_report(verdict: Verdict, windows: Windows, folder: Path) -> Snapshot | None:
    """Write all files of a look; return Evidently's snapshot, or None where the current window is empty.

    The verdict is written last: whoever sees it finds the files that explain it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    snapshot = make_drift_report(windows, verdict) if windows.current.texts else None
    for name in (DRIFT_PAGE, DRIFT_JSON):
        (folder / name).unlink(missing_ok=True)
    if snapshot is not None:
        snapshot.save_html(str(folder / DRIFT_PAGE))
        snapshot.save_json(str(folder / DRIFT_JSON))
    looks = extend_history(verdict, folder / HISTORY)
    titles = {reason.signal: reason.title for reason in verdict.signals}
    plot_history(looks, titles, folder / HISTORY_PLOT)
    write_whole(folder / PAGE, render_page(verdict, folder / HISTORY_PLOT, snapshot is not None).encode())
    write_whole(folder / VERDICT, (verdict.model_dump_json(indent=2) + "\n").encode())
    return snapshot


def render_page(verdict: Verdict, plot: Path, has_drift_page: bool) -> str:
    """Write the page for people: one file, the plot in it, nothing loaded from elsewhere."""
    picture = base64.b64encode(plot.read_bytes()).decode()
    return (
        make_environment(Path(__file__).parent)
        .get_template("report_template.html")
        .render(
            verdict=verdict,
            color=STATUS_COLORS[verdict.status],
            rules=_RULES,
            picture=picture,
            drift_page=DRIFT_PAGE if has_drift_page else None,
        )
    )
