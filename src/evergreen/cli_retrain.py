"""`evergreen retrain`: from a stale verdict to a pull request; each command is a step of retrain.yml."""

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from evergreen.actions import add_summary, set_output
from evergreen.settings import AlertSettings, RetrainingSettings, Settings
from evergreen.written import load_written

VERDICT = Path("reports/monitoring/verdict.json")
_Base = Annotated[str, typer.Option(help="Branch that the pull request goes to.")]
_Verdict = Annotated[Path, typer.Option(help="What evergreen monitor wrote.")]

app = typer.Typer(
    help="Retrain a stale champion, and propose the challenger.",
    epilog="Example: evergreen retrain propose",
    no_args_is_help=True,
)


@app.command(epilog="Example: evergreen retrain start")
def start(
    verdict: _Verdict = VERDICT,
    workflow: Annotated[str, typer.Option(help="File of the workflow.")] = "retrain.yml",
    base: _Base = "main",
) -> None:
    """Start the retraining workflow at GitHub where the verdict says retrain; else say why not."""
    from evergreen.monitoring.staleness import Verdict  # noqa: PLC0415 - imports for this command only
    from evergreen.release.pull_requests import PullRequests  # noqa: PLC0415

    seen = load_written(Verdict, verdict, "evergreen monitor")
    if seen.action != "retrain":
        print(f"not started: the verdict is {seen.status}, {seen.action.replace('_', ' ')}")
        return
    PullRequests(RetrainingSettings.load()).start_workflow(workflow, base)
    print(f"started {workflow} on {base}")


@app.command(epilog="Example: evergreen retrain check --anyway")
def check(
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Retrain although somebody closed a proposal lately.")
    ] = False,
    base: _Base = "main",
) -> None:
    """Decide whether to retrain now: not for retraining.cooldown_days after somebody closed a proposal."""
    from evergreen.params import Params  # noqa: PLC0415 - as above
    from evergreen.release.proposal import RetrainingDecision, check_cooldown  # noqa: PLC0415
    from evergreen.release.pull_requests import PullRequests  # noqa: PLC0415

    if anyway:
        decision = RetrainingDecision(proceed=True, reason="Somebody asks for it.")
    else:
        days = Params.load().retraining.cooldown_days
        decision = check_cooldown(PullRequests(RetrainingSettings.load()), base, days, datetime.now(UTC))
    set_output("proceed", decision.proceed)
    add_summary(decision.reason)
    print(decision.reason)
    if not decision.proceed:
        _add_evidence(f"Not retrained.\n\n{decision.reason}")


@app.command(epilog="Example: EVERGREEN_CHECKPOINTS_URL=s3://models/checkpoints evergreen retrain run")
def run() -> None:
    """Run the pipeline (dvc repro), resuming from the checkpoints at EVERGREEN_CHECKPOINTS_URL, if that is set.

    Where train.warm_start is models/champion-weights, the checked-out commit's weights are put there first.
    """
    from evergreen.params import Params  # noqa: PLC0415 - as above
    from evergreen.release.checkpoints import CheckpointMirror, run_with_checkpoints  # noqa: PLC0415
    from evergreen.release.warm_start import COPY, copy_champion_weights  # noqa: PLC0415

    if Params.load().train.warm_start == str(COPY):
        copy_champion_weights()
    command = ["dvc", "repro", "--pull", "--allow-missing"]
    uri = RetrainingSettings.load().checkpoints_url
    if uri:
        mirror = CheckpointMirror(Settings.load().state_dir / "checkpoints", uri)
        code = run_with_checkpoints(command, mirror)
    else:
        code = subprocess.run(command, check=False).returncode
    if code:
        raise typer.Exit(1)


@app.command(epilog="Example: EVERGREEN_PULL_REQUESTS=rest evergreen retrain propose")
def propose(
    gate: Annotated[Path, typer.Option(help="What evergreen gate wrote.")] = Path("reports/gate/gate.json"),
    verdict: _Verdict = VERDICT,
    plot: Annotated[Path, typer.Option(help="The monitor's plot; left out where there is none.")] = Path(
        "reports/monitoring/history.png"
    ),
    base: _Base = "main",
    remote: Annotated[str, typer.Option(help="Git remote to push to.")] = "origin",
) -> None:
    """Open or update the one pull request of a challenger that passed the gate, or say why there is none.

    Where it did not pass, the alert gets the evidence, and a pull request that is open is withdrawn.
    """
    from evergreen.params import Params  # noqa: PLC0415 - as above
    from evergreen.release.proposal import propose as propose_model  # noqa: PLC0415
    from evergreen.release.pull_requests import PullRequests  # noqa: PLC0415

    days = Params.load().retraining.cooldown_days
    outcome = propose_model(PullRequests(RetrainingSettings.load()), gate, verdict, plot, remote, base, days)
    set_output("pull-request", outcome.proposal.url if outcome.proposal else "")
    add_summary(f"{outcome.message}\n\n{outcome.report}")
    print(outcome.message)
    if outcome.evidence:
        _add_evidence(outcome.evidence)


def _add_evidence(text: str) -> None:
    """Add a text to the open incident, where people are alerted to it."""
    from evergreen.monitoring.alerts import Alerts  # noqa: PLC0415 - as above

    alerts = Alerts(AlertSettings.load(), Settings.load().state_dir)
    if not alerts.has_channels:
        return
    result = alerts.add_evidence(text)
    where = result.issue or "no issue" if result.was_open else "no incident is open"
    print(f"alert: {where}; messages: {result.sent} sent, {result.kept} kept")
    result.raise_problems()
