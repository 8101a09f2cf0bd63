"""`evergreen alert`: alert people to a verdict, test the channels, close the incident."""

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evergreen.errors import EvergreenError
from evergreen.settings import AlertSettings, Settings
from evergreen.written import load_written

if TYPE_CHECKING:
    from evergreen.monitoring.alerts import Alerts
    from evergreen.monitoring.incidents import Subject


class Outcome(StrEnum):
    """Of a job of GitHub Actions."""

    SUCCESS = "success"
    FAILURE = "failure"
    CANCELLED = "cancelled"


app = typer.Typer(
    help="Alert people to a stale model or a failed workflow: a GitHub issue, and any Apprise URL.",
    epilog="Example: evergreen alert test",
    no_args_is_help=True,
)


@app.command(epilog="Example: evergreen alert send --verdict reports/monitoring/verdict.json")
def send(
    verdict: Annotated[Path, typer.Option(help="What evergreen monitor wrote.")] = Path(
        "reports/monitoring/verdict.json"
    ),
    plot: Annotated[Path, typer.Option(help="PNG for the messages; left out where there is none.")] = Path(
        "reports/monitoring/history.png"
    ),
) -> None:
    """Open, update or close the incident by a verdict, and send what earlier runs could not."""
    from evergreen.monitoring.alerts import NO_CHANNEL  # noqa: PLC0415 - imports Apprise and PyGithub
    from evergreen.monitoring.staleness import Verdict  # noqa: PLC0415

    alerts = _load_alerts()
    if not alerts.has_channels:
        print(NO_CHANNEL)
        return
    result = alerts.send(load_written(Verdict, verdict, "evergreen monitor"), plot)
    print(f"issue: {result.issue or 'none'}; messages: {result.sent} sent, {result.kept} kept")
    result.raise_problems()


@app.command(epilog="Example: EVERGREEN_ALERT_URLS=mailto://USER:PASSWORD@gmail.com evergreen alert test")
def test() -> None:
    """Send a test message to every channel, and check that the token may write issues; opens none."""
    from evergreen.monitoring.alerts import NO_CHANNEL  # noqa: PLC0415 - as above

    alerts = _load_alerts()
    if not alerts.has_channels:
        raise EvergreenError(NO_CHANNEL)
    failed = 0
    for name, problem in alerts.test():
        print(f"{name}: {problem or 'works'}", flush=True)
        failed += problem is not None
    if failed:
        raise EvergreenError(f"{failed} of the channels failed: do what the lines above say, then test again.")


@app.command(epilog='Example: evergreen alert close --because "Release 1.4.0 was verified."')
def close(
    because: Annotated[str, typer.Option(help="The reason, for the comment and the messages.")],
) -> None:
    """Close the incident, as once the release that mends it is verified."""
    from evergreen.monitoring.alerts import NO_CHANNEL  # noqa: PLC0415 - as above

    alerts = _load_alerts()
    if not alerts.has_channels:
        print(NO_CHANNEL)
        return
    result = alerts.close(because)
    if result.was_open:
        print(f"issue closed: {result.issue or 'none'}; messages: {result.sent} sent, {result.kept} kept")
    else:
        print("no incident is open")
    result.raise_problems()


@app.command(epilog="Example: evergreen alert run --workflow monitor --outcome failure")
def run(
    workflow: Annotated[str, typer.Option(help="Name of the workflow.", metavar="NAME")],
    outcome: Annotated[Outcome, typer.Option(help="How it ended, as GitHub Actions' job.status.")],
    detail: Annotated[str, typer.Option(help="How each of its jobs ended, in a line.", metavar="TEXT")] = "",
) -> None:
    """Report in an issue of its own that a workflow's run failed, and later that it works again."""
    from evergreen.monitoring.alerts import NO_CHANNEL  # noqa: PLC0415 - as above
    from evergreen.monitoring.incidents import Subject  # noqa: PLC0415

    if not re.fullmatch(r"[\w.-]+", workflow):
        raise typer.BadParameter("letters, digits, dots and dashes", param_hint="'--workflow'")
    if outcome == Outcome.CANCELLED:
        print("canceled: nothing to report")
        return
    alerts = _load_alerts(Subject.for_workflow(workflow))
    if not alerts.has_channels:
        print(NO_CHANNEL)
        return
    result = alerts.report_run(workflow, outcome == Outcome.FAILURE, detail)
    print(f"issue: {result.issue or 'none'}; messages: {result.sent} sent, {result.kept} kept")
    result.raise_problems()


def _load_alerts(subject: "Subject | None" = None) -> "Alerts":
    from evergreen.monitoring.alerts import Alerts  # noqa: PLC0415 - as above

    return Alerts(AlertSettings.load(), Settings.load().state_dir, subject=subject)
