"""`evergreen report`: what people read, made of what the pipeline, the monitor and the gate left."""

import re
from pathlib import Path
from typing import Annotated

import typer

from evergreen.actions import add_summary
from evergreen.settings import RetrainingSettings

app = typer.Typer(
    help="Write reports for reviewers, and post them on pull requests.",
    epilog="Example: evergreen report pull-request",
    no_args_is_help=True,
)


@app.command("pull-request", epilog="Example: evergreen report pull-request --out report.md")
def pull_request(
    out: Annotated[Path | None, typer.Option(help="File for the Markdown; by default it is printed.")] = None,
    gate: Annotated[Path, typer.Option(help="What evergreen gate wrote.")] = Path("reports/gate/gate.json"),
    verdict: Annotated[Path, typer.Option(help="What evergreen monitor wrote; may be missing.")] = Path(
        "reports/monitoring/verdict.json"
    ),
    champion: Annotated[str, typer.Option(help="Git revision of the champion.")] = "origin/main",
) -> None:
    """Write what a reviewer of the challenger decides on: recommendation, reasons, comparison, changes, cost."""
    from evergreen.release.pull_request import collect_report  # noqa: PLC0415 - takes seconds

    report = collect_report(gate, verdict, champion)
    _write(report, out)


@app.command(epilog="Example: evergreen report metrics --champion origin/main --out report.md")
def metrics(
    champion: Annotated[str, typer.Option(help="Git revision to compare with.")] = "origin/main",
    out: Annotated[Path | None, typer.Option(help="File for the Markdown; by default it is printed.")] = None,
    commit: Annotated[str, typer.Option(help="Commit whose plots are shown.")] = "HEAD",
) -> None:
    """Compare metrics and plots with another revision's; on the page of the workflow run as well."""
    from evergreen.release.metrics_report import render_metrics  # noqa: PLC0415 - takes seconds

    report = render_metrics(champion, RetrainingSettings.load().repository_url, commit)
    add_summary(report)
    _write(report, out)


@app.command(epilog="Example: evergreen report post report.md --pull-request 12 --name metrics")
def post(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Markdown file.", exists=True, dir_okay=False)],
    pull_request: Annotated[int, typer.Option(help="Number of the pull request.", min=1)],
    name: Annotated[
        str, typer.Option(help="Name of the comment: letters, digits and dashes; one of this name is replaced.")
    ],
) -> None:
    """Write a comment on a pull request, in place of the one of this name; through CML, or the REST API."""
    from evergreen.release.pull_requests import PullRequests  # noqa: PLC0415 - as above

    if not re.fullmatch(r"[\w-]+", name):
        raise typer.BadParameter("letters, digits and dashes", param_hint="'--name'")
    PullRequests(RetrainingSettings.load()).comment(pull_request, name, file.read_text(encoding="utf-8"))
    print(f"comment {name} on #{pull_request}")


def _write(report: str, out: Path | None) -> None:
    if out is None:
        print(report, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report, encoding="utf-8")
    print(f"{len(report):,} characters in {out}")
