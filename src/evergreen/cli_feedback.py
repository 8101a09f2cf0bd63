"""`evergreen feedback`: labels that came back from production, for the next training."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.actions import add_summary
from evergreen.errors import EvergreenError
from evergreen.settings import Settings

if TYPE_CHECKING:
    from evergreen.params import Params

_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]

app = typer.Typer(
    help="Labels that came back from production.", epilog="Example: evergreen feedback collect", no_args_is_help=True
)


@app.callback()
def _group() -> None:
    """Labels that came back from production."""


@app.command(epilog="Example: evergreen feedback collect --until 2026-11-01")
def collect(
    until: Annotated[
        datetime | None, typer.Option(formats=_TIMES, help="Leave labels that came later, in UTC; by default now.")
    ] = None,
) -> None:
    """Add the labels that came back since the last cut to data.feedback, and put that file under DVC."""
    from evergreen.monitoring.log import PredictionLog  # noqa: PLC0415 - imports for this command only
    from evergreen.params import Params  # noqa: PLC0415
    from evergreen.release.feedback import collect_feedback  # noqa: PLC0415

    params, settings = Params.load(), Settings.load()
    file = _get_feedback_file(params)
    log = PredictionLog.open(settings.log_url, settings.log_text)
    moment = until if until is None or until.tzinfo else until.replace(tzinfo=UTC)
    summary = collect_feedback(log, file, params.data.labels, params.retraining.feedback_sources, moment)
    if summary.n_samples:
        _run_dvc("add", "--quiet", str(file))
    lines = [f"{summary.n_new:,} new labels, {summary.n_relabeled:,} changed; {summary.n_samples:,} in {file}"]
    lines += [f"{count:,} not taken: {reason}" for reason, count in summary.skipped.items()]
    add_summary("\n".join(f"- {line}" for line in lines))
    print("\n".join(lines))


def _get_feedback_file(params: "Params") -> Path:
    if params.data.feedback is None:
        raise EvergreenError("data.feedback: not set. Name a Parquet file, as data/corpora/feedback.parquet.")
    return Path(params.data.feedback)


def _run_dvc(*arguments: str) -> None:
    done = subprocess.run(["dvc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise EvergreenError(f"dvc {arguments[0]} failed: {reason}. Run from the repository's root, with DVC set up.")
