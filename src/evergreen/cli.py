"""The command line: thin commands over the library. A command imports what it needs, so that help is fast."""

import json
import sys
from collections.abc import Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from evergreen import (
    __version__,
    cli_alert,
    cli_batch,
    cli_feedback,
    cli_gate,
    cli_github,
    cli_label,
    cli_log,
    cli_monitor,
    cli_release,
    cli_report,
    cli_retrain,
    cli_serve,
    cli_video,
    logs,
)
from evergreen.errors import EvergreenError, exit_on_error, redact_tracebacks
from evergreen.settings import GitHubSettings, Settings

if TYPE_CHECKING:
    from evergreen.doctor import CheckResult
    from evergreen.text.runtime import Prediction

BUNDLE = Path("models/text")
_WITH_STATE = ("runs", "serve", "monitor", "replay", "alert", "feedback", "label", "retrain")


class _Commands(TyperGroup):
    """Turns an error that a person can fix into one message and an exit code."""

    def main(self, *args: Any, **options: Any) -> Any:
        with exit_on_error():
            return super().main(*args, **options)


app = typer.Typer(
    cls=_Commands,
    help="Keep models fresh: train, evaluate, ship, watch, retrain.\n\n"
    "Exit codes: 0 fine · 1 the work failed, with the reason on standard error · 2 wrong usage or parameters "
    "· 3 the model is stale (monitor) · 4 the challenger may not replace the champion (gate) "
    "· 5 the release does not hold: roll back (release verify)",
    epilog='Example: evergreen predict "Thanks for the quick rebooking!"',
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # they could show texts or secrets
)
params_app = typer.Typer(
    help="Check the parameters of the pipeline.", epilog="Example: evergreen params check", no_args_is_help=True
)
bundle_app = typer.Typer(
    help="Check bundles, text or video.", epilog="Example: evergreen bundle verify", no_args_is_help=True
)
runs_app = typer.Typer(help="Send tracked runs to MLflow.", epilog="Example: evergreen runs send", no_args_is_help=True)
app.add_typer(params_app, name="params")
app.add_typer(bundle_app, name="bundle")
app.add_typer(runs_app, name="runs")
app.add_typer(cli_video.app, name="video")
app.add_typer(cli_log.app, name="log")
app.add_typer(cli_feedback.app, name="feedback")
app.add_typer(cli_label.app, name="label")
app.add_typer(cli_report.app, name="report")
app.add_typer(cli_retrain.app, name="retrain")
app.add_typer(cli_release.app, name="release")
app.add_typer(cli_alert.app, name="alert")
app.add_typer(cli_github.app, name="github")
app.add_typer(cli_serve.keys_app, name="keys")
app.command(epilog="Example: EVERGREEN_PORT=8080 evergreen serve")(cli_serve.serve)
app.command(epilog="Example: evergreen monitor --now 2026-05-01")(cli_monitor.monitor)
app.command(epilog="Example: evergreen gate --champion v1.4.0")(cli_gate.gate)
app.command(epilog="Example: evergreen replay sudden")(cli_monitor.replay)
app.command(epilog="Example: evergreen batch reviews.csv predictions.parquet")(cli_batch.batch)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(requested: bool) -> None:
    if requested:
        typer.echo(f"evergreen {__version__}")
        raise typer.Exit


@app.callback()
def _start(
    ctx: typer.Context,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done, on standard error.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    redact_tracebacks()  # here, since Typer sets a hook of its own as it starts
    settings = Settings.load()
    logs.configure("info" if verbose else settings.log_level)
    if ctx.invoked_subcommand in _WITH_STATE:
        settings.check_state_dir()


@app.command(epilog="Example: evergreen predict --file texts.csv > predictions.jsonl")
def predict(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The text; put -- before one that starts with a dash.")
    ] = None,
    file: Annotated[
        str | None,
        typer.Option(
            help="Texts to predict: .txt (one a line), .csv or .jsonl (with a field text); - for standard input."
        ),
    ] = None,
    bundle: Annotated[Path, typer.Option(help="Folder of the bundle.")] = BUNDLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, as is always done for a file.")] = False,
) -> None:
    """Predict the label of one text, or of each text of a file as a JSON line in the file's order.

    Lines of standard input are predicted as they come.
    """
    if (text is None) == (file is None):
        raise typer.BadParameter("give a text or a file, one of the two", param_hint="'TEXT' / '--file'")

    from evergreen.text.inputs import read_batches  # noqa: PLC0415
    from evergreen.text.runtime import Classifier  # noqa: PLC0415 - imports ONNX Runtime

    batches = None if file is None else read_batches(file)
    classifier = Classifier.load(bundle)
    if batches is not None:
        for batch in batches:
            _print_lines(classifier.predict(batch))
    elif as_json:
        print(_to_json(classifier(text or "")))
    else:
        _print_prediction(classifier(text or ""))


def _print_lines(predictions: Iterable["Prediction"]) -> None:
    for prediction in predictions:
        print(_to_json(prediction))
    sys.stdout.flush()  # whoever sent one line and waits for its answer gets it


def _to_json(prediction: "Prediction") -> str:
    return json.dumps(asdict(prediction))


def _print_prediction(prediction: "Prediction") -> None:
    table = Table.grid(padding=(0, 2))
    for label, probability in sorted(prediction.probabilities.items(), key=lambda pair: -pair[1]):
        style = "bold" if label == prediction.label else ""
        bar = ProgressBar(total=1, completed=probability, width=24)
        table.add_row(Text(label, style), bar, Text(f"{probability:6.1%}", style))
    console = Console()
    console.print(Text(prediction.label, "bold"))
    console.print(table)


@params_app.command("check", epilog="Example: evergreen params check params.yaml")
def params_check(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The parameter file.")] = Path("params.yaml"),
) -> None:
    """Check a parameter file: each wrong key, its value and what is allowed."""
    from evergreen.params import Params  # noqa: PLC0415 - for this command only

    params = Params.load(file)
    if find_spec("py3langid") is not None:  # with the extra `monitor`
        from evergreen.monitoring.signals import load_signals  # noqa: PLC0415 - takes seconds

        load_signals(params.monitor.signals)
    typer.echo(f"{file}: fine")


@bundle_app.command("verify", epilog="Example: evergreen bundle verify models/text")
def bundle_verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the bundle.")] = BUNDLE,
) -> None:
    """Check every file of a bundle against its manifest, load the model, and describe it."""
    described = _describe_detector(folder) if _read_bundle_name(folder) == "video" else _describe_classifier(folder)
    typer.echo(f"{folder}: fine")
    for name, value in described.items():
        typer.echo(f"{name + ':':<11}{value}")


def _read_bundle_name(folder: Path) -> str | None:
    """Which pipeline's bundle it is; None where that can't be read, which loading it reports."""
    try:
        name = json.loads((folder / "bundle.json").read_bytes())["name"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return str(name)


def _describe_classifier(folder: Path) -> dict[str, str]:
    from evergreen.text.bundle import Bundle  # noqa: PLC0415
    from evergreen.text.runtime import Classifier  # noqa: PLC0415 - imports ONNX Runtime

    bundle = Bundle.load(folder)
    Classifier(bundle)  # what Classifier.load does after hashing the files, which is done
    manifest = bundle.manifest
    return {
        "version": manifest.version,
        "labels": ", ".join(manifest.labels),
        "dtype": manifest.dtype,
        "size": decimal(bundle.size_bytes),
        "data hash": manifest.data_hash,
    }


def _describe_detector(folder: Path) -> dict[str, str]:
    from evergreen.video.bundle import Bundle  # noqa: PLC0415
    from evergreen.video.detector import Detector  # noqa: PLC0415 - imports ONNX Runtime and OpenCV

    bundle = Bundle.load(folder)
    Detector(bundle)  # as above
    clips, clip = bundle.manifest.clips, bundle.manifest.offline.clip
    return {
        "version": bundle.manifest.version,
        "frames": f"{clips.height} × {clips.width}, {'color' if clips.color else 'gray'}, windows of {clips.window}",
        "threshold": f"{clip.threshold:.3f}",
        "size": decimal(bundle.size_bytes),
        "data hash": bundle.manifest.data_hash,
    }


@runs_app.command("send", epilog="Example: MLFLOW_TRACKING_URI=http://localhost:5000 evergreen runs send")
def runs_send() -> None:
    """Send the tracked runs that were kept while the MLflow server was unavailable."""
    from evergreen import tracking  # noqa: PLC0415 - for this command only

    result = tracking.flush(Settings.load())
    typer.echo(f"{result.sent} sent, {result.kept} kept")
    if result.busy:
        typer.echo("another process is sending them")
    elif result.kept:
        problem = result.problem or "not all could be sent"
        raise EvergreenError(f"{problem}. The runs stay in the outbox; send them again once that is solved.")


@app.command(epilog="Example: evergreen doctor --json")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    github: Annotated[
        bool, typer.Option("--github", help="Check the repository at GitHub instead: token, workflows, secrets.")
    ] = False,
) -> None:
    """Check what is installed and which backends are reachable, with a remedy for what is not."""
    from evergreen.doctor import list_failures, run_checks  # noqa: PLC0415 - for this command only

    if github:
        from evergreen.doctor_github import check_github  # noqa: PLC0415 - imports PyGithub

        checks = check_github(GitHubSettings.load())
    else:
        checks = run_checks(Settings.load())
    failures = list_failures(checks)
    if as_json:
        print(json.dumps({"ok": not failures, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        _print_checks(checks)
    if failures:
        raise EvergreenError(f"to solve first: {', '.join(check.name for check in failures)}")


def _print_checks(checks: Iterable["CheckResult"]) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("", "Check", "Detail", "What to do"):
        table.add_column(heading, overflow="fold")
    styles = {"ok": "green", "missing": "yellow", "problem": "red", "unchecked": "blue"}
    for check in checks:
        status = Text(check.status, styles[check.status])
        table.add_row(status, Text(check.name), Text(check.detail), Text(check.remedy))
    Console().print(table)
