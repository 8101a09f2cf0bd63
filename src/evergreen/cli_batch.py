"""`evergreen batch`: predict all rows of a file."""

import signal
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from evergreen.progress import show_progress

if TYPE_CHECKING:
    from evergreen.serving.batch import BatchProgress, BatchResult


class Engine(StrEnum):
    """What runs the processes that predict."""

    LOCAL = "local"
    RAY = "ray"


def batch(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="Rows with a field text: .jsonl, .csv or .parquet; a path or s3://….")
    ],
    target: Annotated[
        str, typer.Argument(metavar="OUT", help="The rows with label and probabilities, in any of these formats.")
    ],
    bundle: Annotated[Path, typer.Option(help="Folder of the text bundle.")] = Path("models/text"),
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that predict.", show_default="one for each processor")
    ] = None,
    chunk_rows: Annotated[
        int | None,
        typer.Option(min=1, help="Rows that are kept together; a killed run repeats no more.", show_default="4096"),
    ] = None,
    engine: Annotated[Engine, typer.Option(help="This machine's processes, or Ray Data.")] = Engine.LOCAL,
    ray_address: Annotated[
        str | None, typer.Option(help="Address of a Ray cluster; by default Ray runs on this machine.")
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Drop what a stopped run left, and start again.")] = False,
) -> None:
    """Predict every row of a file; a run that was stopped is resumed by the same command.

    Rows without a usable text are reported in OUT.rejects.jsonl; where no other row is left, the exit code is 1.
    """
    if ray_address is not None and engine is not Engine.RAY:
        raise typer.BadParameter("only with --engine ray", param_hint="'--ray-address'")

    from evergreen.serving.batch import CHUNK_ROWS, run_batch  # noqa: PLC0415 - imports ONNX Runtime
    from evergreen.serving.batch_parts import BatchError  # noqa: PLC0415

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops as Ctrl-C does
    with _Bar() as bar:
        result = run_batch(
            source,
            target,
            bundle,
            processes=processes,
            chunk_rows=chunk_rows or CHUNK_ROWS,
            engine=engine.value,
            ray_address=ray_address,
            restart=restart,
            on_progress=bar.update,
        )
    typer.echo(_describe(result))
    if result.rows and not result.predicted:
        raise BatchError(f"{source}: not one row has a usable text. The reasons are in {result.rejects}.")


class _Bar:
    """A progress bar whose time left counts nothing that an earlier run had done."""

    def __enter__(self) -> Self:
        self._bar: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, progress: "BatchProgress") -> None:
        if self._bar is None:
            scale = progress.unit == "B"
            self._bar = show_progress(
                None, "batch", total=progress.total, initial=progress.done, unit=progress.unit, unit_scale=scale
            )
        self._bar.set_postfix_str(f"{progress.rows:,} rows", refresh=False)
        self._bar.update(progress.done - self._bar.n)


def _describe(result: "BatchResult") -> str:
    lines = [
        f"{result.predicted:,} of {result.rows:,} rows predicted in {result.target}",
        f"{result.seconds:.1f} s, {result.texts_per_second:,.0f} texts a second",
    ]
    if result.resumed_rows:
        lines.append(f"{result.resumed_rows:,} rows were done by an earlier run")
    if result.duplicates_fraction:
        lines.append(f"{result.duplicates_fraction:.1%} were duplicates, computed once")
    if result.rejects:
        lines.append(f"{result.rejected:,} rejected, with the reasons in {result.rejects}")
    return "\n".join(lines)
