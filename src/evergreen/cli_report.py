"""`evergreen report`: what people read, made of what the pipeline, the monitor and the gate left."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Reports for people.", epilog="Example: evergreen report pull-request", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep the group, though it has one command."""


@app.command("pull-request", epilog="Example: evergreen report pull-request --out report.md")
def pull_request(
    out: Annotated[Path | None, typer.Option(help="File for the Markdown; by default it is printed.")] = None,
    gate: Annotated[Path, typer.Option(help="What evergreen gate wrote.")] = Path("reports/gate/gate.json"),
    verdict: Annotated[Path, typer.Option(help="What evergreen monitor wrote; may be missing.")] = Path(
        "reports/monitoring/verdict.json"
    ),
    champion: Annotated[str, typer.Option(help="Git revision of what is in production.")] = "origin/main",
) -> None:
    """Write what a reviewer of a new model decides on: recommendation, reasons, comparison, changed answers, cost."""
    from evergreen.release.pull_request import collect_report  # noqa: PLC0415 - takes seconds

    report = collect_report(gate, verdict, champion)
    if out is None:
        print(report, end="")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(report, encoding="utf-8")
    print(f"{len(report):,} characters in {out}")
