"""What a step of GitHub Actions leaves for the steps after it and for people; elsewhere these do nothing."""

import secrets
from pathlib import Path

from evergreen.settings import ActionsSettings


def set_output(name: str, value: str | bool) -> None:
    """Set an output of the step; True and False become `true` and `false`."""
    text = str(value).lower() if isinstance(value, bool) else value
    # A text can't end what it stands in, or set another output: nobody guesses the delimiter.
    delimiter = secrets.token_hex(8)
    _append(ActionsSettings.load().github_output, f"{name}<<{delimiter}\n{text}\n{delimiter}\n")


def add_summary(markdown: str) -> None:
    """Add Markdown to the page of the run."""
    _append(ActionsSettings.load().github_step_summary, f"{markdown}\n\n")


def _append(file: Path | None, text: str) -> None:
    if file is not None:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(text)
