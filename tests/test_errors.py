"""Errors of a command and of a stage: one line, an exit code, and no password, in a traceback neither."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evergreen import cli, stage, tracking
from evergreen.bundle import BundleError
from evergreen.errors import EvergreenError, exit_on_error
from evergreen.params import ParamsError
from evergreen.settings import SettingsError
from evergreen.sources import SourceError
from evergreen.text.inputs import FormatError

pytestmark = pytest.mark.usefixtures("clean_environment")

ADDRESS = "http://me:hush@tracking:5000"


def run_command(main: Callable[[], None], monkeypatch, capsys) -> tuple[int, str]:
    """Exit code and standard error of a command that calls `main`."""
    monkeypatch.setattr(tracking, "flush", lambda _settings: main())
    result = CliRunner().invoke(cli.app, ["runs", "send"])
    assert isinstance(result.exception, SystemExit)
    return result.exit_code, result.stderr


def run_stage(main: Callable[[], None], monkeypatch, capsys) -> tuple[int, str]:
    """Exit code and standard error of a stage that calls `main`."""
    with pytest.raises(SystemExit) as error:
        stage.run(main)
    return error.value.code, capsys.readouterr().err


either = pytest.mark.parametrize("run", [run_command, run_stage])


def fail_with(error: Exception) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail


@either
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EvergreenError("a. Do b."), 1),
        (SourceError("a. Do b."), 1),
        (BundleError("a. Do b."), 1),
        (ParamsError("a. Do b."), 2),
        (SettingsError("a. Do b."), 2),
        (FormatError("a. Do b."), 2),
    ],
)
def test_error_is_one_line_and_an_exit_code(run, error, code, monkeypatch, capsys):
    assert run(fail_with(error), monkeypatch, capsys) == (code, "error: a. Do b.\n")


@either
def test_operating_system_error_names_the_file(run, monkeypatch, capsys):
    def read() -> None:
        Path("none.csv").open().close()

    message = "error: none.csv: No such file or directory. Correct the path or the permissions.\n"
    assert run(read, monkeypatch, capsys) == (1, message)


def test_other_errors_pass():
    for error in (BrokenPipeError(), ZeroDivisionError()):
        with pytest.raises(type(error)), exit_on_error():
            raise error


@either
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("EVERGREEN_LOG_LEVEL", "loud"),
        ("EVERGREEN_TRACKING_TIMEOUT", "soon"),
        ("EVERGREEN_TRACKING_TIMEOUT", "-1"),
    ],
)
def test_wrong_setting(run, name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    code, message = run(fail_with(AssertionError("not reached")), monkeypatch, capsys)
    assert code == 2
    assert message.startswith(f"error: {name}: '{value}'. ")
    assert message.endswith("Correct the environment or .env.\n")
    assert len(message.splitlines()) == 1


@either
def test_password_is_hidden_in_a_message(run, monkeypatch, capsys):
    code, message = run(fail_with(SourceError(f"{ADDRESS}: unavailable.")), monkeypatch, capsys)
    assert (code, message) == (1, "error: http://***@tracking:5000: unavailable.\n")


@either
def test_missing_command_is_no_missing_file(run, monkeypatch, capsys):
    code, message = run(lambda: subprocess.run(["nosuch"], check=False), monkeypatch, capsys)
    assert (code, message.partition(". ")[0]) == (1, "error: nosuch: no such command")


@either
def test_password_is_hidden_in_a_path(run, monkeypatch, capsys):
    error = FileNotFoundError(2, "No such file", ADDRESS)
    code, message = run(fail_with(error), monkeypatch, capsys)
    assert code == 1
    assert "hush" not in message


FAIL = """
import sys
address = sys.argv[1]
def fail(*_):
    try:
        raise ConnectionError(address)
    except ConnectionError as error:
        raise ValueError("cannot use " + address) from error
"""


@pytest.mark.parametrize(
    "start",
    [
        "from evergreen import cli, tracking; tracking.flush = fail; sys.argv[1:] = ['runs', 'send']; cli.main()",
        "from evergreen import stage; stage.run(fail)",
    ],
)
def test_password_is_hidden_in_an_uncaught_traceback(start):
    program = [sys.executable, "-c", FAIL + start, ADDRESS]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert "ConnectionError: http://***@tracking:5000" in done.stderr
    assert "ValueError: cannot use http://***@tracking:5000" in done.stderr
    assert "hush" not in done.stdout + done.stderr
