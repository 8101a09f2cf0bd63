"""Settings: the environment, and `.env` for what it does not name."""

import os
from pathlib import Path

import pytest

from evergreen.settings import Settings, SettingsError

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


def test_dotenv_must_be_utf8():
    Path(".env").write_bytes(b"A=\xff\n")
    with pytest.raises(SettingsError, match=r"\.env: not UTF-8"):
        Settings.load()
