"""`evergreen feedback`: labels that came back from production, for the next training."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.actions import add_summary
from evergreen.cli_times import FORMATS, METAVAR, add_zone
from evergreen.errors import EvergreenError
from evergreen.settings import Settings

if TYPE_CHECKING:
    from evergreen.params import Params

app = typer.Typer(
    help="Collect the labels that came back from production.",
    epilog="Example: evergreen feedback collect",
    no_args_is_help=True,
)


@app.command(epilog="Example: evergreen feedback collect --until 2026-11-01")
def collect(
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=FORMATS, metavar=METAVAR, help="Leave out labels that came later, in UTC; by default now."
        ),
    ] = None,
) -> None:
    """Add the labels that came back since the last cut to data.feedback, and put that file under DVC."""
    from evergreen.monitoring.log import PredictionLog  # noqa: PLC0415 - imports for this command only
    from evergreen.params import Params  # noqa: PLC0415
    from evergreen.release.dvc import run_dvc  # noqa: PLC0415
    from evergreen.release.feedback import collect_feedback  # noqa: PLC0415

    params, settings = Params.load(), Settings.load()
    file = _get_feedback_file(params)
    log = PredictionLog.open(settings.log_url, settings.log_text)
    moment = until and add_zone(until)
    summary = collect_feedback(log, file, params.data.labels, params.retraining.feedback_sources, moment)
    if summary.n_samples:
        run_dvc("add", "--quiet", str(file))
    lines = [f"{summary.n_new:,} new labels, {summary.n_relabeled:,} changed; {summary.n_samples:,} in {file}"]
    lines += [f"{count:,} not taken: {reason}" for reason, count in summary.skipped.items()]
    add_summary("\n".join(f"- {line}" for line in lines))
    print("\n".join(lines))


def _get_feedback_file(params: "Params") -> Path:
    if params.data.feedback is None:
        raise EvergreenError("data.feedback: not set. Name a Parquet file, as data/corpora/feedback.parquet.")
    return Path(params.data.feedback)
