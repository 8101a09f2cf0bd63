"""A fork on this machine: a clone with a champion, its remotes of Git and DVC, GitHub's stand-in, and act for the workflows."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from act import ActResult, run_act
from github_server import TOKEN, GitHubServer, serve_github
from ruamel.yaml import YAML
from shifted_clock import ShiftedClock

ROOT = Path(__file__).parents[2]
_KEPT = (".venv", ".dvc/config.local", ".evergreen/alerts", "reports/monitoring")
"""What a new runner has beside the checkout: its environment and settings, and what the workflows keep in GitHub's cache."""
_ROLES = ("AUTHOR", "COMMITTER")
_PERSON = {
    f"GIT_{role}_{part}": value for role in _ROLES for part, value in (("NAME", "Ann"), ("EMAIL", "ann@example.com"))
}


def run(folder: Path, *command: str, **variables: str) -> str:
    """Run a command of the environment that the rehearsal runs in, and return what it prints."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "GIT_CONFIG_GLOBAL": "/nowhere/gitconfig",
    }
    for name in ("MLFLOW_TRACKING_URI", "HF_HUB_OFFLINE"):
        environment.pop(name, None)
    done = subprocess.run(
        command, cwd=folder, env=environment | _PERSON | variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout + done.stderr


class Calendar:
    """The date in a rehearsal: Python processes that are started with its environment see it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._clock = ShiftedClock(folder)
        self._shift = timedelta()
        self.environment = self._clock.environment

    @property
    def now(self) -> datetime:
        return datetime.now(UTC) + self._shift

    def set(self, date: datetime) -> None:
        """Go to a date."""
        self._shift = date - datetime.now(UTC)
        self._clock.set(self._shift.total_seconds())


@dataclass(frozen=True)
class Loop:
    """What a person has who runs the repository at GitHub.

    Attributes:
        folder: the clone in which workflows run.
        github: where issues and pull requests are.
        calendar: the date.
        environment: more variables of the workflows' steps, the calendar's among them.
        log_url: address of the prediction log.
    """

    folder: Path
    github: GitHubServer
    calendar: Calendar
    environment: Mapping[str, str]
    log_url: str

    @property
    def site(self) -> str:
        return self.github.url.removesuffix("/api/v3")

    def git(self, *arguments: str) -> str:
        return run(self.folder, "git", *arguments, GIT_SSL_CAINFO=str(self.github.certificate))

    def dvc(self, *arguments: str) -> str:
        return run(self.folder, "dvc", *arguments)

    def act(self, event: str, workflow: str, revision: str = "origin/main", **fields: Any) -> ActResult:
        """Run a workflow as a new runner does, and keep what it prints in the folder `logs` beside the clone.

        `env` is added to the steps' variables, the rest is `run_act`'s.
        """
        self.check_out(revision)
        environment = {
            "GITHUB_API_URL": self.github.url,
            "GITHUB_SERVER_URL": self.site,
            "GITHUB_REPOSITORY": self.github.repository,
            "REQUESTS_CA_BUNDLE": str(self.github.certificate),
            "NODE_EXTRA_CA_CERTS": str(self.github.certificate),
            "GIT_SSL_CAINFO": str(self.github.certificate),
            "HOME": str(self.folder.parent / "home"),
            **{f"GIT_{role}_DATE": self.calendar.now.isoformat() for role in _ROLES},
            **self.environment,
            **fields.pop("env", {}),
        }
        if not shutil.which("cml"):
            environment["EVERGREEN_PULL_REQUESTS"] = "rest"
        secrets = {"GITHUB_TOKEN": TOKEN, "DATABASE_URL": self.log_url}
        file = self.folder / ".github/workflows" / workflow
        result = run_act(self.folder, event, file, env=environment, secrets=secrets, **fields)
        logs = self.folder.parent / "logs"
        logs.mkdir(exist_ok=True)
        (logs / f"{len(list(logs.iterdir())) + 1:02}-{file.stem}.log").write_text(result.output)
        return result

    def check_out(self, revision: str) -> None:
        """Have what a new runner has: no data, no models, no checkpoints, nothing of an earlier run."""
        # act would take a tag of that commit for what was pushed.
        self.git("fetch", "-q", "--no-tags", "origin", "+refs/heads/*:refs/remotes/origin/*")
        self.git("checkout", "-q", "--force", "-B", "main", revision)
        self.git("clean", "-ffdxq", *(f"--exclude=/{path}" for path in _KEPT))


def set_params(file: Path, values: Mapping[str, Any]) -> None:
    """Set keys of params.yaml, as SECTION.NAME; comments stay."""
    yaml = YAML()
    params = yaml.load(file)
    for key, value in values.items():
        section, name = key.split(".")
        assert name in params[section], key
        params[section][name] = value
    yaml.dump(params, file)


def link_environment(folder: Path) -> None:
    """Give a clone the environment that this runs in, as the setup action leaves it."""
    (folder / ".venv").mkdir(exist_ok=True)
    (folder / ".venv/bin").symlink_to(Path(sys.executable).parent)
    for stamp in ("train.stamp", "dev.stamp"):
        (folder / ".venv" / stamp).touch()


@contextmanager
def open_loop(folder: Path, calendar: Calendar, environment: Mapping[str, str], log_url: str) -> Iterator[Loop]:
    """A loop for the length of a block.

    Args:
        folder: a repository whose outputs are in its DVC cache; what is there is committed as the champion. Beside it are
            put the bare repository `origin.git` and the DVC remote `remote`.
        calendar: the date.
        environment: more variables of the workflows' steps.
        log_url: address of the prediction log.
    """
    link_environment(folder)
    (folder.parent / "home").mkdir(exist_ok=True)
    run(folder, "dvc", "remote", "modify", "--local", "local", "url", str(folder.parent / "remote"))
    run(folder, "git", "branch", "-M", "main")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "The champion", "--allow-empty")
    run(folder, "dvc", "push", "-q")
    origin = folder.parent / "origin.git"
    run(folder, "git", "clone", "-q", "--bare", str(folder), str(origin))
    with serve_github("/api/v3", tls=True, git_folder=origin) as github:
        github.now = lambda: calendar.now
        github.add_workflow("retrain.yml")
        address = f"{github.url.removesuffix('/api/v3')}/{github.repository}.git"
        run(folder, "git", "remote", "remove", "origin") if "origin" in run(folder, "git", "remote") else None
        run(folder, "git", "remote", "add", "origin", address)
        run(folder, "git", "fetch", "-q", "origin", GIT_SSL_CAINFO=str(github.certificate))
        yield Loop(folder, github, calendar, {**calendar.environment, **environment}, log_url)
