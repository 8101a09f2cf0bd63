"""Branches and tags of the stand-in for GitHub: of a bare Git repository, or names in memory."""

import hashlib
import os
import subprocess
from pathlib import Path

_ROLES = ("AUTHOR", "COMMITTER")
_WRITER = {
    f"GIT_{role}_{part}": value
    for role in _ROLES
    for part, value in (("NAME", "GitHub"), ("EMAIL", "noreply@example.com"))
}


class MergeConflictError(Exception):
    """Two branches change the same lines."""


class Refs:
    """Reads and writes refs; they are named without `refs/`, such as heads/main.

    Args:
        folder: a bare repository; None keeps names in memory, heads/main among them.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory = {} if folder else {"heads/main": make_sha("main")}

    def get(self, ref: str) -> str | None:
        """The commit of a ref, None where there is none."""
        return (
            self._git("rev-parse", "--verify", "--quiet", f"refs/{ref}^{{commit}}")
            if self.folder
            else self._memory.get(ref)
        )

    def set(self, ref: str, sha: str) -> None:
        """Make a ref, or move it."""
        if self.folder is None:
            self._memory[ref] = sha
        elif self._git("update-ref", f"refs/{ref}", sha) is None:
            raise ValueError(f"{ref}: Git does not take {sha}")

    def delete(self, ref: str) -> None:
        """Remove a ref, if it is there."""
        self._memory.pop(ref, None)
        if self.folder:
            self._git("update-ref", "-d", f"refs/{ref}")

    def find_commit(self, name: str) -> str | None:
        """The commit that a SHA, a branch or a tag names."""
        known = self.get(f"heads/{name}") or self.get(f"tags/{name}") or self.get(name)
        if known or self.folder is None:
            return known or (name if name in self._memory.values() else None)
        return self._git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")

    def read_message(self, sha: str) -> tuple[str, list[str]]:
        """The message and the parents of a commit."""
        if self.folder is None:
            return "A commit", []
        parents, _, message = (self._git("log", "-1", "--format=%P%n%B", sha) or "").partition("\n")
        return message.strip(), parents.split()

    def contains(self, branch: str, sha: str) -> bool:
        """Whether a commit is on a branch."""
        if self.folder is None:
            return self.get(f"heads/{branch}") == sha
        return self._git("merge-base", "--is-ancestor", sha, f"refs/heads/{branch}") is not None

    def merge(self, base: str, sha: str, message: str, date: str) -> str:
        """Merge a commit into a branch by a merge commit of that date, and return that.

        Raises:
            MergeConflictError: when they change the same lines.
        """
        tip = self.get(f"heads/{base}") or ""
        if self.folder is None:
            merged: str | None = make_sha(tip + sha)
        else:
            tree = self._git("merge-tree", "--write-tree", tip, sha)
            if tree is None:
                raise MergeConflictError
            merged = self._git("commit-tree", tree, "-p", tip, "-p", sha, "-m", message, date=date)
        if merged is None:
            raise MergeConflictError
        self.set(f"heads/{base}", merged)
        return merged

    def _git(self, *arguments: str, date: str = "") -> str | None:
        """What a command of Git prints; None where it fails."""
        command = ["git", f"--git-dir={self.folder}", *arguments]
        environment = os.environ | _WRITER | ({f"GIT_{role}_DATE": date for role in _ROLES} if date else {})
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return None if done.returncode else done.stdout.strip()


def make_sha(text: str) -> str:
    """Something that looks like a commit's name."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
