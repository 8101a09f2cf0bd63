"""`evergreen gate`: may the challenger replace the champion?"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from evergreen.params import Params
    from evergreen.release.gate import GateResult

FAILED = 4
"""Exit code."""
_STYLES = {"passed": "green", "failed": "red", "skipped": "yellow"}


def gate(
    champion: Annotated[str, typer.Option(help="Git revision of the champion.")] = "origin/main",
    champion_bundle: Annotated[
        Path | None, typer.Option(help="Folder of the champion's bundle, instead of a revision.")
    ] = None,
    out: Annotated[Path, typer.Option(help="File for the result.")] = Path("reports/gate/gate.json"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare the challenger with the champion: exit code 0 (it may replace it) or 4 (it may not).

    The challenger is what dvc repro left in models/text; both predict its test set.
    """
    from evergreen.params import Params  # noqa: PLC0415 - imports for this command only

    params = Params.load()
    with TemporaryDirectory() as folder:
        result = _judge(params, champion, champion_bundle, Path(folder) / "champion")
    result.save(out)
    if as_json:
        print(result.model_dump_json(indent=2))
    else:
        _print_result(result)
    if not result.passed:
        raise typer.Exit(FAILED)


def _judge(params: "Params", revision: str, bundle: Path | None, folder: Path) -> "GateResult":
    from evergreen.release.champion import Champion, fetch_champion, read_video_metrics  # noqa: PLC0415
    from evergreen.release.gate_run import run_gate  # noqa: PLC0415 - takes seconds
    from evergreen.text.runtime import Classifier  # noqa: PLC0415

    if bundle is not None:
        classifier = Classifier.load(bundle, params.evaluate.num_threads)
        return run_gate(Champion(bundle, classifier, read_video_metrics(revision)), params)
    champion = fetch_champion(revision, folder, params.evaluate.num_threads)
    return run_gate(champion, params, f"{revision} has no bundle.")


def _print_result(result: "GateResult") -> None:
    console = Console()
    console.print(Text(result.summary, f"bold {'green' if result.passed else 'red'}"))
    console.print(Text(f"challenger {result.challenger}, champion {result.champion or 'none'}"))
    table = Table(box=None, pad_edge=False)
    for heading in ("", "Rule", "Finding"):
        table.add_column(heading, overflow="fold")
    for check in result.checks:
        table.add_row(Text(check.status, _STYLES[check.status]), Text(check.name), Text(check.message))
    console.print(table)
