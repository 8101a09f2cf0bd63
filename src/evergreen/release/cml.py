"""CML's command, which opens a pull request and writes comments in place of our own REST calls.

It runs in a clone of its own with a home of its own, since it rewrites Git's configuration, the token included.
"""

import os
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from evergreen.errors import EvergreenError
from evergreen.logs import redact
from evergreen.settings import RetrainingSettings

_TIMEOUT = 180
_WATERMARK = "CML watermark"


class CmlError(EvergreenError):
    """CML is missing or failed; the message says what it printed, and how to do without."""


class Cml:
    """The command, for one repository.

    Args:
        program: its path.
        settings: repository and token.
    """

    def __init__(self, program: str, settings: RetrainingSettings) -> None:
        self.program = program
        self.repository = settings.repository_url
        self.token = settings.github_token.get_secret_value()

    @classmethod
    def find(cls, settings: RetrainingSettings) -> Self | None:
        """The command, where it is to be used; None where REST is.

        Raises:
            CmlError: when it is asked for and not there.
        """
        program = shutil.which("cml") if settings.pull_requests != "rest" else None
        if program is None and settings.pull_requests == "cml":
            raise CmlError("cml is not on PATH. Install it, or set EVERGREEN_PULL_REQUESTS=rest.")
        return cls(program, settings) if program else None

    @staticmethod
    def is_author(comment: str) -> bool:
        """Whether CML wrote a comment, and will find it again."""
        return _WATERMARK in comment

    def open_pull_request(self, branch: str, base: str, title: str, body: str) -> None:
        """Open a pull request of a branch that was pushed before."""
        self._run("pr", "create", f"--branch={branch}", f"--target-branch={base}", f"--title={title}", f"--body={body}")

    def comment(self, number: int, name: str, text: str) -> None:
        """Write a comment, in place of the one that it wrote under this name."""
        with TemporaryDirectory() as folder:
            report = Path(folder, "report.md")
            report.write_text(text, encoding="utf-8")
            # Without --publish=false it would upload our plots to a server of its makers.
            self._run(
                *("comment", "update", f"--target=pr/{number}", f"--watermark-title=evergreen {name}"),
                *("--publish=false", str(report)),
            )

    def _run(self, *arguments: str) -> None:
        command = [self.program, *arguments, "--driver=github", f"--repo={self.repository}", "--log=error"]
        with TemporaryDirectory() as folder:
            clone = Path(folder, "clone")
            _git("clone", "--quiet", "--no-checkout", "--shared", ".", str(clone))
            _git("-C", str(clone), "remote", "set-url", "origin", f"{self.repository}.git")
            try:
                done = subprocess.run(
                    command,
                    cwd=clone,
                    env=os.environ | self._make_environment(folder),
                    capture_output=True,
                    text=True,
                    timeout=_TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise CmlError(f"cml {arguments[0]}: no end after {_TIMEOUT} s. {_REMEDY}") from error
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split())[-300:] or "nothing"
            raise CmlError(f"cml {arguments[0]} failed: {redact(said.replace(self.token, '***'))}. {_REMEDY}")

    def _make_environment(self, home: str) -> dict[str, str]:
        return {
            "HOME": home,
            # It writes there: --global means this file, whatever the caller's environment names.
            "GIT_CONFIG_GLOBAL": str(Path(home, ".gitconfig")),
            "REPO_TOKEN": self.token,
            "CI": "true",
            "ITERATIVE_DO_NOT_TRACK": "1",
        }


_REMEDY = "Set EVERGREEN_PULL_REQUESTS=rest to do without it."


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)
