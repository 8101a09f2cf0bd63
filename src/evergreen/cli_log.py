"""`evergreen log`: prune and export the prediction log."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from evergreen.cli_times import FORMATS, METAVAR, add_zone
from evergreen.settings import Settings

app = typer.Typer(
    help="Prune and export the prediction log.",
    epilog="Example: evergreen log export predictions.parquet",
    no_args_is_help=True,
)


@app.command(epilog="Example: evergreen log prune --older-than-days 30")
def prune(
    older_than_days: Annotated[
        int | None, typer.Option(min=0, help="Age in days; by default EVERGREEN_LOG_RETENTION_DAYS, else 90.")
    ] = None,
) -> None:
    """Delete old predictions and their feedback."""
    from evergreen.monitoring.log import PredictionLog  # noqa: PLC0415 - imports SQLAlchemy

    settings = Settings.load()
    days = settings.log_retention_days if older_than_days is None else older_than_days
    log = PredictionLog.open(settings.log_url, settings.log_text)
    print(f"{log.prune(datetime.now(UTC) - timedelta(days=days))} deleted")


@app.command(epilog="Example: evergreen log export s3://logs/november.parquet --since 2026-11-01 --until 2026-12-01")
def export(
    out: Annotated[str, typer.Argument(metavar="OUT", help="File or s3:// address: .jsonl, .csv or .parquet.")],
    since: Annotated[
        datetime | None,
        typer.Option(formats=FORMATS, metavar=METAVAR, help="Only predictions from this time on, in UTC."),
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(formats=FORMATS, metavar=METAVAR, help="Only predictions before this time, in UTC."),
    ] = None,
) -> None:
    """Write predictions to a file, each with its newest feedback, in the order in which they arrived."""
    from evergreen.monitoring.log import PredictionLog  # noqa: PLC0415 - imports SQLAlchemy
    from evergreen.monitoring.log_export import export as export_rows  # noqa: PLC0415

    settings = Settings.load()
    log = PredictionLog.open(settings.log_url, settings.log_text)
    print(f"{export_rows(log.stream(since and add_zone(since), until and add_zone(until)), out)} predictions in {out}")
