"""The command line: thin commands over the library. A command imports what it needs, so that help is fast."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from evergreen import __version__, logs
from evergreen import params as parameters
from evergreen.settings import Settings
from evergreen.sources import SourceError
from evergreen.text import bundle as bundles

if TYPE_CHECKING:
    from evergreen.doctor import Check
    from evergreen.text.runtime import Prediction

BUNDLE = Path("models/text")
LONGEST_FIELD = 1 << 24  # characters of one CSV field; an unclosed quote swallows no more memory than that


class _Commands(TyperGroup):
    """Turns a known error into one message and an exit code; an unknown one keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except parameters.ParamsError as error:
            _fail(str(error), code=2)
        except (SourceError, bundles.BundleError) as error:
            _fail(str(error))
        except OSError as error:
            if error.filename is None:  # a closed pipe, say, which is Typer's to handle
                raise
            _fail(f"{error.filename}: {error.strerror}. Correct the path or the permissions.")


def _fail(message: str, code: int = 1) -> NoReturn:
    from evergreen.doctor import hidden  # noqa: PLC0415 - only where something went wrong

    typer.echo(f"Error: {hidden(message)}", err=True)
    raise typer.Exit(code)


def _settings() -> Settings:
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"{problem['loc'][0]}: found {problem['input']!r}. {problem['msg']}" for problem in error.errors()]
        raise parameters.ParamsError("; ".join(lines) + ". Correct the environment or .env.") from error


app = typer.Typer(
    cls=_Commands,
    help="Keep models fresh: train, evaluate, ship, watch, retrain.\n\n"
    "Exit codes: 0 fine · 1 the work failed, with the reason on standard error · 2 wrong usage or parameters",
    epilog='Example: evergreen predict "Thanks for the quick rebooking!"',
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # they could hold texts or secrets
)
params_app = typer.Typer(
    help="Parameters of the pipeline.", epilog="Example: evergreen params check", no_args_is_help=True
)
bundle_app = typer.Typer(help="Bundles of a model.", epilog="Example: evergreen bundle verify", no_args_is_help=True)
runs_app = typer.Typer(help="Tracked runs.", epilog="Example: evergreen runs send", no_args_is_help=True)
app.add_typer(params_app, name="params")
app.add_typer(bundle_app, name="bundle")
app.add_typer(runs_app, name="runs")


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"evergreen {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, on standard error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    logs.configure("info" if verbose else _settings().log_level)


@app.command(epilog="Example: evergreen predict --file texts.csv > answers.jsonl")
def predict(
    text: Annotated[str | None, typer.Argument(help="The text; put -- before one that starts with a dash.")] = None,
    file: Annotated[
        str | None,
        typer.Option(help="Texts to answer: .txt (one a line), .csv or .jsonl (with text); - for standard input."),
    ] = None,
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")] = BUNDLE,
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON; a file is always answered so.")] = False,
) -> None:
    """Answer one text, or each text of a file as a JSON line in the file's order."""
    if (text is None) == (file is None):
        raise typer.BadParameter("give a text or a file, one of the two", param_hint="'TEXT' / '--file'")
    texts = None if file is None else _texts(file)

    from evergreen.text.runtime import Classifier  # noqa: PLC0415 - imports ONNX Runtime

    classifier = Classifier(bundle)
    if texts is not None:
        _answer_all(classifier.stream, texts)
    elif as_json:
        print(_as_json(classifier(text or "")))
    else:
        _show(classifier(text or ""))


def _answer_all(stream: Callable[[Iterable[str]], Iterator["Prediction"]], texts: Iterator[str]) -> None:
    failures = []

    def readable() -> Iterator[str]:
        try:
            yield from texts
        except SourceError as error:  # kept until the texts before it are answered
            failures.append(error)

    for prediction in stream(readable()):
        print(_as_json(prediction))
    sys.stdout.flush()
    if failures:
        raise failures[0]


def _as_json(prediction: "Prediction") -> str:
    return json.dumps(asdict(prediction))


def _show(prediction: "Prediction") -> None:
    table = Table.grid(padding=(0, 2))
    for label, probability in sorted(prediction.probabilities.items(), key=lambda pair: -pair[1]):
        style = "bold" if label == prediction.label else ""
        bar = ProgressBar(total=1, completed=probability, width=24)
        table.add_row(Text(label, style), bar, Text(f"{probability:6.1%}", style))
    console = Console()
    console.print(Text(prediction.label, "bold"))
    console.print(table)


def _texts(file: str) -> Iterator[str]:
    """Stream the texts of a file; what can't be read is a SourceError once it is reached."""
    readers = {"": _lines, ".txt": _lines, ".csv": _csv_texts, ".jsonl": _jsonl_texts}
    read = readers.get(Path(file).suffix.lower())
    if read is None:
        raise typer.BadParameter(f"{file}: write a .txt, .csv or .jsonl file, or - for lines", param_hint="'--file'")
    return _opened(file, read)


def _opened(file: str, read: Callable[[BinaryIO, str], Iterator[str]]) -> Iterator[str]:
    if file == "-":
        yield from read(sys.stdin.buffer, "standard input")
        return
    try:
        with Path(file).open("rb") as stream:
            yield from read(stream, file)
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}. Correct the path or the permissions.") from error


def _lines(stream: BinaryIO, name: str) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in _decoded(stream, name))


def _decoded(stream: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(stream, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise SourceError(f"{name}, line {number}: not UTF-8. Save the file as UTF-8.") from error


def _csv_texts(stream: BinaryIO, name: str) -> Iterator[str]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.DictReader(_decoded(stream, name), strict=True)
    try:
        found = reader.fieldnames or []
        if "text" not in found:
            raise SourceError(f"{name}: no column text among {list(found)}. Name the column of the texts text.")
        for row in reader:
            if row["text"] is None:
                raise SourceError(f"{name}, line {reader.line_num}: no text in this row. Add it, or remove the row.")
            yield row["text"]
    except csv.Error as error:
        raise SourceError(
            f"{name}, after line {reader.line_num}: not CSV ({error}). Correct the quotes there."
        ) from error


def _jsonl_texts(stream: BinaryIO, name: str) -> Iterator[str]:
    for number, line in enumerate(_decoded(stream, name), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{name}, line {number}: not JSON. Write one object a line.") from error
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise SourceError(f'{name}, line {number}: no key text with a string. Write {{"text": "…"}}.')
        yield row["text"]


@params_app.command("check", epilog="Example: evergreen params check params.yaml")
def params_check(
    file: Annotated[Path, typer.Argument(help="The parameter file.")] = Path("params.yaml"),
) -> None:
    """Check a parameter file: each key, what was found and what is allowed."""
    try:
        parameters.load(file)
    except UnicodeDecodeError as error:
        raise parameters.ParamsError(f"{file}: not UTF-8. Save the file as UTF-8.") from error
    typer.echo(f"{file}: fine")


@bundle_app.command("verify", epilog="Example: evergreen bundle verify models/text")
def bundle_verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")] = BUNDLE,
) -> None:
    """Check every file of a bundle against its manifest, and tell what the bundle is."""
    manifest = bundles.verify(folder)
    size = sum((folder / name).stat().st_size for name in [*manifest.sha256, bundles.MANIFEST])
    typer.echo(f"{folder}: fine")
    for name, value in {
        "version": manifest.version,
        "labels": ", ".join(manifest.labels),
        "precision": manifest.precision,
        "size": decimal(size),
        "data hash": manifest.data_hash,
    }.items():
        typer.echo(f"{name + ':':<11}{value}")


@runs_app.command("send", epilog="Example: MLFLOW_TRACKING_URI=http://localhost:5000 evergreen runs send")
def runs_send() -> None:
    """Send the tracked runs that were kept while the MLflow server was away."""
    from evergreen import tracking  # noqa: PLC0415 - no other command needs it

    flushed = tracking.flush(_settings())
    typer.echo(f"{flushed.sent} sent, {flushed.kept} kept")
    if flushed.kept:
        reason = flushed.problem or "not all could be sent"
        _fail(f"{reason}. The runs stay in the outbox; send them again once that is solved.")


@app.command(epilog="Example: evergreen doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Answer as JSON.")] = False,
) -> None:
    """Tell what is installed, which backends are reachable, and what to do about what is not."""
    from evergreen import doctor as doctors  # noqa: PLC0415 - no other command needs it

    checks = doctors.examine(_settings())
    failed = doctors.failed(checks)
    if as_json:
        print(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _show_checks(checks)
    if failed:
        _fail(f"to solve first: {', '.join(check.name for check in failed)}")


def _show_checks(checks: list["Check"]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "Check", "Found", "What to do"):
        table.add_column(heading, overflow="fold")
    styles = {"ok": "green", "missing": "yellow", "problem": "red"}
    for check in checks:
        row = (
            Text(check.status, styles[check.status]),
            Text(check.name),
            Text(check.found),
            Text(check.remedy),
        )
        table.add_row(*row)
    Console().print(table)
