"""`evergreen monitor`: one look at the log; `evergreen replay`: many, at weeks that a scenario makes up."""

import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evergreen import cli_alert
from evergreen.actions import add_summary
from evergreen.cli_times import FORMATS, METAVAR, add_zone
from evergreen.settings import AlertSettings, Settings

if TYPE_CHECKING:
    from evergreen.monitoring.staleness import Verdict

STALE = 3
"""Exit code."""
RETRY_HOURS = 1.0
"""After a look that failed: the database or a channel may be back."""
_STYLES = {"fresh": "green", "watch": "yellow", "stale": "red", "ok": "green", "alarm": "red", "unknown": "yellow"}


def monitor(
    now: Annotated[
        datetime | None,
        typer.Option(formats=FORMATS, metavar=METAVAR, help="Look as at this time, in UTC; by default now."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("reports/monitoring"),
    bundle: Annotated[Path, typer.Option(help="Folder of the champion's bundle.")] = Path("models/text"),
    test: Annotated[Path, typer.Option(help="The champion's test set.")] = Path("data/text/test.parquet"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
    alert: Annotated[
        bool, typer.Option("--alert", help="Then alert people, as alert send does, and exit with 0 when stale too.")
    ] = False,
    every: Annotated[
        float | None, typer.Option(min=0.001, help="Hours after which it looks again, until stopped; needs --alert.")
    ] = None,
) -> None:
    """Judge whether the champion is fresh: exit code 0 (fresh, watch) or 3 (stale).

    Looks at the window of the prediction log that ended last (monitor.window_days and look_days of params.yaml), and
    leaves verdict.json, report.html and the plots in the report's folder.
    """
    if alert and as_json:
        raise typer.BadParameter("not with --alert, which prints lines of its own", param_hint="'--json'")
    if every is not None:
        if now is not None or not alert:
            raise typer.BadParameter("goes with --alert, and not with --now", param_hint="'--every'")
        _repeat(["--out", str(out), "--bundle", str(bundle), "--test", str(test)], every)
    from evergreen.params import Params  # noqa: PLC0415 - imports for this command only

    params = Params.load()
    settings = Settings.load()
    from evergreen.monitoring.alert_text import Links, render_body  # noqa: PLC0415
    from evergreen.monitoring.log import PredictionLog  # noqa: PLC0415
    from evergreen.monitoring.monitor import Monitor, publish  # noqa: PLC0415 - takes seconds
    from evergreen.monitoring.report import HISTORY_PLOT, VERDICT  # noqa: PLC0415
    from evergreen.monitoring.windows import find_look  # noqa: PLC0415

    watcher = Monitor.load(params, bundle, test)
    moment = add_zone(now or datetime.now(UTC))
    until = find_look(moment, params.monitor.look_days)
    log = PredictionLog.open(settings.log_url, settings.log_text)
    watcher = watcher.follow(log)
    verdict, windows = watcher.look(watcher.read_log(log, until), until, moment)
    recorded = publish(verdict, windows, out, settings)
    add_summary(render_body(verdict, Links.of(AlertSettings.load())))
    if as_json:
        print(verdict.model_dump_json(indent=2))
    else:
        print_verdict(verdict)
        print(f"report in {out / 'report.html'}; {recorded}", flush=True)
    if alert:
        # One command for schedulers, to whom code 3 would be a crash: CronJobs repeat it, and report it as a failure.
        # Whom it concerns is told by the alert; what fails here, the alert included, is a failure still.
        cli_alert.send(out / VERDICT, out / HISTORY_PLOT)
    elif verdict.status == "stale":
        raise typer.Exit(STALE)


def _repeat(options: list[str], hours: float) -> NoReturn:
    """Look again and again, for what has no scheduler, as a container under compose.

    Each look is a process of its own: its memory is free between two, and one that crashes does not end the others.
    """
    while True:
        command = [sys.executable, "-c", "from evergreen.cli import main; main()", "monitor", "--alert", *options]
        code = subprocess.run(command, check=False).returncode
        pause = hours if code == 0 else min(hours, RETRY_HOURS)
        print(f"look ended with code {code}; the next one in {pause:g} hours", file=sys.stderr, flush=True)
        time.sleep(pause * 3600)


def print_verdict(verdict: "Verdict") -> None:
    """Print a verdict and its signals as a short table."""
    console = Console()
    console.print(Text(verdict.summary, f"bold {_STYLES[verdict.status]}"))
    console.print(
        Text(f"{verdict.what_to_do} {verdict.model}, {verdict.since:%Y-%m-%d} until {verdict.until:%Y-%m-%d}")
    )
    table = Table(box=None, pad_edge=False)
    for heading in ("", "Finding"):
        table.add_column(heading, overflow="fold")
    for reason in verdict.signals:
        table.add_row(Text(reason.status, _STYLES[reason.status]), Text(reason.message))
    console.print(table)


def replay(
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="A scenario's name, or a .yaml file.")
    ] = "quickstart",
    url: Annotated[
        str | None, typer.Option(help="Server that predicts, and whose log is read; by default predict here.")
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="EVERGREEN_API_KEY", help="API key for the server.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the reports, one for each scenario.")] = Path("reports/replay"),
    bundle: Annotated[Path, typer.Option(help="Folder of the champion's bundle.")] = Path("models/text"),
    data: Annotated[Path, typer.Option(help="Folder of the prepared texts.")] = Path("data/text"),
) -> None:
    """Send labeled texts through the champion, as a scenario says, and look at each week as the monitor does.

    Scenarios: quickstart, stationary, gradual, sudden, label_shift, broken_upstream.
    """
    from evergreen.monitoring.replay import Scenario  # noqa: PLC0415 - imports for this command only
    from evergreen.params import Params  # noqa: PLC0415

    params, settings, plan = Params.load(), Settings.load(), Scenario.load(scenario)
    from evergreen.monitoring.log import PredictionLog  # noqa: PLC0415
    from evergreen.monitoring.monitor import WORKSPACE, Monitor, leave_report  # noqa: PLC0415 - takes seconds
    from evergreen.monitoring.replay import Corpus, Feeder, RuntimeFeeder, ServerFeeder, start_log  # noqa: PLC0415
    from evergreen.monitoring.replay import replay as replay_weeks  # noqa: PLC0415

    watcher = Monitor.load(params, bundle, data / "test.parquet")
    corpus = Corpus([data / "validation.parquet", data / "stream.parquet"], params.seed)
    name = Path(scenario).stem
    feeder: Feeder
    if url is None:
        feeder = RuntimeFeeder(watcher.classifier, start_log(settings.state_dir / "replay" / f"{name}.db"))
    else:
        log = PredictionLog.open(settings.log_url, settings.log_text)
        feeder = ServerFeeder(url, log, watcher.classifier.manifest.identity, api_key)
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    console = Console()
    console.print(Text(plan.description))
    verdict = None
    for look in replay_weeks(plan, corpus, watcher, feeder):
        verdict = look.verdict
        leave_report(verdict, look.windows, folder, folder / WORKSPACE)
        accuracy = "unknown" if look.accuracy is None else f"{look.accuracy:.2f}"
        console.print(Text.assemble(
            f"week {look.week.number}, until {verdict.until:%Y-%m-%d}, {look.week.description}: accuracy {accuracy}. ",
            (verdict.summary, _STYLES[verdict.status]),
        ))  # fmt: skip
    if verdict is not None:
        console.print()
        print_verdict(verdict)
        print(f"report in {folder / 'report.html'}; over time: evidently ui --workspace {folder / WORKSPACE}")
