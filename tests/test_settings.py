"""Settings: the environment, and `.env` for what it does not name."""

import codecs
import os
import subprocess
import sys
from pathlib import Path

import pytest

from evergreen.settings import (
    ActionsSettings,
    RetrainingSettings,
    ServingSettings,
    Settings,
    SettingsError,
    _Environment,
    explain_unwritable,
)

pytestmark = pytest.mark.usefixtures("clean_environment")


def test_defaults_need_no_service(tmp_path: Path):
    settings = Settings.load()
    assert settings.state_dir == Path(".evergreen")
    assert settings.tracking_uri == f"sqlite:///{tmp_path.resolve()}/.evergreen/mlflow.db"


def test_dotenv_reaches_libraries(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    Path(".env").write_text("AWS_ACCESS_KEY_ID=mine\nMLFLOW_TRACKING_URI=http://tracking:5000\n")
    assert Settings.load().tracking_uri == "http://tracking:5000"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "mine"


def test_environment_overrides_dotenv(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "set")
    monkeypatch.setenv("EVERGREEN_LOG_LEVEL", "info")
    Path(".env").write_text("AWS_ACCESS_KEY_ID=mine\nEVERGREEN_LOG_LEVEL=debug\n")
    assert Settings.load().log_level == "info"
    assert os.environ["AWS_ACCESS_KEY_ID"] == "set"


def test_dotenv_of_another_folder_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / ".env").write_text("EVERGREEN_LOG_LEVEL=debug\n")
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    assert Settings.load().log_level == "warning"


def test_all_wrong_variables_in_one_message(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVERGREEN_LOG_LEVEL", "loud")
    Path(".env").write_text("EVERGREEN_TRACKING_TIMEOUT=0\n")
    with pytest.raises(SettingsError, match=r"EVERGREEN_TRACKING_TIMEOUT: '0'.*EVERGREEN_LOG_LEVEL: 'loud'") as error:
        Settings.load()
    assert error.value.exit_code == 2


# .env and wrong values: one line and exit code 2, from commands as from stages

ROOT = Path(__file__).parents[1]
COMMAND = [sys.executable, "-c", "from evergreen.cli import main; main()"]
PROGRAMS = {
    "runs send": [*COMMAND, "runs", "send"],
    "doctor": [*COMMAND, "doctor"],
    "predict": [*COMMAND, "predict", "good"],
    "preprocess": [sys.executable, str(ROOT / "pipelines" / "preprocess.py")],
    "video-features": [sys.executable, str(ROOT / "pipelines" / "video_features.py")],
}


def fail(program: str, **environment: str) -> str:
    """The one line on standard error of a program that fails with 2 before it works."""
    command = PROGRAMS[program]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    return line


def write_dotenv(content: bytes | None) -> None:
    if content is None:
        Path(".env").mkdir()
    elif content == b"loop":  # as unreadable as one without permission, to root as well
        Path(".env").symlink_to(".env")
    else:
        Path(".env").write_bytes(content)


UNREADABLE = {
    "latin-1": b"A=\xff\n",
    "half a character": codecs.BOM_UTF16_LE + b"A",
    "NUL": b"A=\0\n",
    "UTF-16 without a mark": "A=b\n".encode("utf-16-le"),
    "UTF-32": codecs.BOM_UTF32_LE + "A=b\n".encode("utf-32-le"),
    "name": b"'A=B'=c\n",
    "loop": b"loop",
    "folder": None,
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_unreadable_dotenv(content: bytes | None):
    write_dotenv(content)
    with pytest.raises(SettingsError, match=r"^\.env: .*\. (Save the file as UTF-8|Make it a file|Write NAME=VALUE)"):
        Settings.load()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("content", [b"A=\0\n", None], ids=["NUL", "folder"])
def test_unreadable_dotenv_is_one_line(content: bytes | None, program: str):
    write_dotenv(content)
    assert fail(program).startswith("error: .env: ")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be"])
def test_encodings_of_dotenv(encoding: str):
    mark = {"utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE}.get(encoding, b"")
    lines = "EVERGREEN_LOG_LEVEL=debug\r\nMLFLOW_EXPERIMENT_NAME=größer\r\n"
    Path(".env").write_bytes(mark + lines.encode(encoding))
    settings = Settings.load()
    assert (settings.log_level, settings.mlflow_experiment) == ("debug", "größer")


@pytest.mark.parametrize("program", PROGRAMS)
def test_wrong_value_is_one_line(program: str):
    assert fail(program, EVERGREEN_LOG_LEVEL="loud\n").startswith("error: EVERGREEN_LOG_LEVEL: 'loud\\n'. ")


def list_numbers() -> list[tuple[type[_Environment], str]]:
    return [
        (kind, kind._name_variable(field.alias or name))
        for kind in (Settings, ServingSettings)
        for name, field in kind.model_fields.items()
        if field.annotation in (int, float)
    ]


@pytest.mark.parametrize("value", ["inf", "nan", "1e300", "-1", "x"])
@pytest.mark.parametrize(("kind", "name"), list_numbers())
def test_number_that_no_clock_takes_is_refused(kind: type[_Environment], name: str, value: str, monkeypatch):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^{name}: '{value}'"):
        kind.load()


def test_empty_variable_is_unset(monkeypatch: pytest.MonkeyPatch):
    for name in ("EVERGREEN_STATE_DIR", "EVERGREEN_TRACKING_TIMEOUT", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")
    assert Settings.load() == Settings()
    assert Settings.load().state_dir == Path(".evergreen")


# The home folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_tilde_in_dotenv(home: Path):
    case = ROOT.parent / "shared/data/cases/17-tilde.env"
    if not case.exists():
        pytest.skip(f"{case} is absent")
    Path(".env").write_bytes(case.read_bytes())
    assert Settings.load().state_dir == home / "evergreen-state"
    assert Settings.load().tracking_uri == f"sqlite:///{home}/evergreen-state/mlflow.db"


@pytest.mark.parametrize(
    ("kind", "name", "value", "expected"),
    [
        (Settings, "EVERGREEN_STATE_DIR", "~/a", "HOME/a"),
        (Settings, "MLFLOW_TRACKING_URI", "~/runs", "HOME/runs"),
        (Settings, "MLFLOW_TRACKING_URI", "file:///~/runs", "file://HOME/runs"),
        (Settings, "MLFLOW_TRACKING_URI", "http://host/~me", "http://host/~me"),
        (Settings, "DATABASE_URL", "sqlite:///~/log.db", "sqlite:///HOME/log.db"),
        (ServingSettings, "EVERGREEN_API_KEYS_FILE", "~/keys", "HOME/keys"),
        (RetrainingSettings, "EVERGREEN_CHECKPOINTS_URL", "~/checkpoints", "HOME/checkpoints"),
        (RetrainingSettings, "EVERGREEN_CHECKPOINTS_URL", "s3://bucket/~me", "s3://bucket/~me"),
        (ActionsSettings, "GITHUB_OUTPUT", "~/output", "HOME/output"),
    ],
)
def test_tilde_is_the_home_folder(kind, name: str, value: str, expected: str, home: Path, monkeypatch):
    monkeypatch.setenv(name, value)
    values = [str(item) for item in kind.load().model_dump().values()]
    assert expected.replace("HOME", str(home)) in values


def test_every_path_setting_knows_the_tilde(home: Path, monkeypatch: pytest.MonkeyPatch):
    for kind in (Settings, ServingSettings, ActionsSettings):
        for name, field in kind.model_fields.items():
            if "Path" in str(field.annotation):
                monkeypatch.setenv(kind._name_variable(field.alias or name), "~/here")
                assert getattr(kind.load(), name) == home / "here"


def test_home_of_nobody(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVERGREEN_STATE_DIR", "~nobody-of-that-name/state")
    with pytest.raises(SettingsError, match=r"EVERGREEN_STATE_DIR: '~nobody.*no such home folder"):
        Settings.load()


UNWRITABLE = {"below a file": "/dev/null/state", "a file": "/dev/null", "no disk": "/proc/state"}


@pytest.mark.parametrize("program", ["runs send", "preprocess", "video-features"])
@pytest.mark.parametrize("folder", UNWRITABLE.values(), ids=UNWRITABLE)
def test_unwritable_state_folder_is_one_line(program: str, folder: str):
    line = fail(program, EVERGREEN_STATE_DIR=folder)
    assert line.startswith(f"error: EVERGREEN_STATE_DIR: {folder} can't be used (")
    assert line.endswith("Set it to a folder that you may write.")


@pytest.mark.parametrize("program", ["preprocess", "video-features"])
def test_unwritable_home_is_one_line(program: str, monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    line = fail(program, HOME="/dev/null/home")
    assert line.startswith("error: HF_HOME: /dev/null/home/.cache/huggingface/datasets can't be used (")


def test_unwritable_is_explained(tmp_path: Path):
    assert explain_unwritable(tmp_path / "new" / "state") is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "link").symlink_to("nothing")
    for folder in (tmp_path / "link", Path("/dev/null"), Path("/proc/state")):
        assert explain_unwritable(folder)
