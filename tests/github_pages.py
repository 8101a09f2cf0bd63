"""What the stand-in for GitHub shows to people: issues, pull requests, releases and files as pages."""

import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

from github_state import GitHubState
from jinja2 import Environment, FileSystemLoader, select_autoescape
from markdown_it import MarkdownIt
from markupsafe import Markup

_MAX_LINES = 200
_IMAGE = {".png": "image/png", ".svg": "image/svg+xml"}
# As on GitHub, a body may hold HTML, and a line's end is one; the stand-in shows what this repository wrote itself.
_MARKDOWN = MarkdownIt("commonmark", {"html": True, "breaks": True}).enable(["table", "strikethrough"])


class Pages:
    """Renders the pages of one repository.

    Args:
        state: what is shown.
    """

    def __init__(self, state: GitHubState) -> None:
        self._state = state
        folder = FileSystemLoader(Path(__file__).parent)
        environment = Environment(loader=folder, autoescape=select_autoescape(), trim_blocks=True)
        environment.filters["markdown"] = lambda text: Markup(_MARKDOWN.render(text or "*No description.*"))  # noqa: S704
        environment.filters["when"] = lambda at: datetime.fromisoformat(at).strftime("on %b %-d, %H:%M")
        self._template = environment.get_template("github_pages.html")

    def render(self, path: str) -> tuple[int, str, bytes] | None:
        """The status, the content type and the body at a path; None where it is not one of the repository's."""
        prefix = f"/{self._state.repository}"
        if path != prefix and not path.startswith(f"{prefix}/"):
            return None
        path = path.removeprefix(prefix)
        match = re.fullmatch(r"/(?:blob|raw)/([^/]+)/(.+)", path)
        if match and (file := self._read_file(*match.groups())):
            return 200, *file
        fields = self._describe(path)
        if fields is None:
            return 404, "text/plain; charset=utf-8", b"There is no such page here."
        state = self._state
        tabs = [
            ("Code", "", 0),
            ("Issues", "/issues", len(state.open_issues)),
            ("Pull requests", "/pulls", len(state.open_pulls)),
            ("Actions", "/actions", 0),
            ("Releases", "/releases", len(state.releases)),
        ]
        html = self._template.render(fields, tabs=tabs, repository=state.repository)
        return 200, "text/html; charset=utf-8", html.encode()

    def _describe(self, path: str) -> dict[str, Any] | None:
        """What the template needs for a page."""
        state = self._state
        pages: dict[str, dict[str, Any]] = {
            "/issues": {"kind": "list", "tab": "Issues", "rows": state.issues[::-1]},
            "/pulls": {"kind": "list", "tab": "Pull requests", "rows": state.pulls[::-1]},
            "/releases": {"kind": "releases", "tab": "Releases", "rows": state.releases[::-1]},
            "/actions": {"kind": "actions", "tab": "Actions", "rows": state.dispatches[::-1]},
        }
        if match := re.fullmatch(r"/(?:issues|pull)/(\d+)", path):
            return self._describe_thread(int(match[1]))
        if match := re.fullmatch(r"/releases/tag/(.+)", path):
            rows = [release for release in state.releases if release["tag_name"] == match[1]]
            return {"kind": "releases", "tab": "Releases", "rows": rows, "title": match[1]} if rows else None
        if path in ("", "/"):
            branches = self._git("for-each-ref", "--format=%(refname:short)", "refs/heads")
            commits = self._git("log", "-20", "--first-parent", "--format=%h %s", state.default_branch)
            return {"kind": "code", "tab": "Code", "title": "Code", "branches": branches, "commits": commits}
        return pages[path] | {"title": pages[path]["tab"]} if path in pages else None

    def _describe_thread(self, number: int) -> dict[str, Any] | None:
        state = self._state
        row = next((row for row in (*state.issues, *state.pulls) if row["number"] == number), None)
        if row is None:
            return None
        fields = {"kind": "thread", "title": row["title"], "row": row, "comments": state.comments[number]}
        if "head" not in row:
            return fields | {"tab": "Issues"}
        head, base = row["head"]["sha"], row["base"]["sha"]
        checks = [run for run in state.check_runs if run["head_sha"] == head]
        commits = self._git("log", "--format=%h %s", f"{base}..{head}")
        files = self._read_diff(f"{base}...{head}")
        return fields | {"tab": "Pull requests", "checks": checks, "commits": commits, "files": files}

    def _read_diff(self, commits: str) -> list[tuple[str, list[str]]]:
        """Each file that a range changes, with the first lines of its difference."""
        names = self._git("diff", "--name-only", commits)
        return [(name, self._git("diff", "-U2", commits, "--", name)[4:_MAX_LINES]) for name in names]

    def _read_file(self, commit: str, path: str) -> tuple[str, bytes] | None:
        kind = _IMAGE.get(Path(path).suffix, "text/plain; charset=utf-8")
        done = self._run("show", f"{commit}:{path}")
        return None if done.returncode else (kind, done.stdout)

    def _git(self, *arguments: str) -> list[str]:
        if self._state.refs.folder is None:
            return []
        return self._run(*arguments).stdout.decode(errors="replace").splitlines()

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        command = ["git", f"--git-dir={self._state.refs.folder}", *arguments]
        return subprocess.run(command, capture_output=True, check=False)
