"""The branch of a proposal: what the pipeline made, as one commit that is pushed without touching the checkout."""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from evergreen.errors import EvergreenError
from evergreen.release.warm_start import COPY

BRANCH = "evergreen/retrain"
EVIDENCE = Path("reports/retraining")
"""Committed with the proposal: what the reviewer's report is made of."""
_MADE = ("dvc.lock", "metrics", "models", "reports", "data", "params.yaml")
"""What a retraining changes; anything else that is changed belongs to somebody's work."""
_NEW = (Path("data/corpora"), EVIDENCE, COPY.with_suffix(".dvc"), COPY.with_name(".gitignore"))
"""What may be there for the first time."""
_TRAILER = "Evergreen-Proposal"
_IDENTITY = {"NAME": "Evergreen", "EMAIL": "evergreen@users.noreply.github.com"}


class BranchError(EvergreenError):
    """The branch can't be made or pushed; the message says what to do."""


def commit_proposal(message: str) -> str | None:
    """Commit what the pipeline made on top of HEAD, on no branch yet; return the commit, None where nothing changed.

    Raises:
        BranchError: when code was changed as well, so that the commit would not reproduce the model.
    """
    if changed := _run("git", "diff", "--name-only", "HEAD", "--", ".", *(f":(exclude){path}" for path in _MADE)):
        files = ", ".join(changed.splitlines()[:5])
        raise BranchError(f"changed, and not part of a proposal: {files}. Commit or stash it first.")
    if not _run("git", "diff", "--name-only", "HEAD", "--", *_MADE):
        return None
    with TemporaryDirectory() as folder:
        index = {"GIT_INDEX_FILE": str(Path(folder, "index"))}
        _run("git", "read-tree", "HEAD", **index)
        _run("git", "add", "--update", "--", *(path for path in _MADE if Path(path).exists()), **index)
        _run("git", "add", "--", *(str(path) for path in _NEW if path.exists()), **index)
        tree = _run("git", "write-tree", **index)
    return _run("git", "commit-tree", tree, "-p", "HEAD", "-m", f"{message}\n\n{_TRAILER}: yes", **_identify())


def push_proposal(commit: str, remote: str, base: str, is_open: bool) -> None:
    """Put a commit on the branch, in place of an earlier proposal.

    Args:
        commit: that `commit_proposal` made.
        remote: name of the Git remote.
        base: branch that it is meant for.
        is_open: whether a pull request of the branch is open: then it is not replaced where others have pushed to it.

    Raises:
        BranchError: when they have, or when the remote refuses.
    """
    before = _run("git", "ls-remote", remote, f"refs/heads/{BRANCH}").partition("\t")[0]
    if before and is_open:
        _check_ours(remote, base)
    branch = f"refs/heads/{BRANCH}"
    _run("git", "push", "--quiet", f"--force-with-lease={branch}:{before}", remote, f"{commit}:{branch}")


def _check_ours(remote: str, base: str) -> None:
    _run("git", "fetch", "--quiet", remote, BRANCH, f"+refs/heads/{base}:refs/remotes/{remote}/{base}")
    log = _run("git", "log", f"--format=%h %an%x09%(trailers:key={_TRAILER})", f"{remote}/{base}..FETCH_HEAD")
    others = [line.partition("\t")[0] for line in log.splitlines() if line.strip() and _TRAILER not in line]
    if others:
        raise BranchError(
            f"{BRANCH}: {others[0]} has pushed to it, and that would be lost. Merge or close its pull request first."
        )


def _identify() -> dict[str, str]:
    """Variables that name an author, where Git has none."""
    return {
        f"GIT_{role}_{field}": value
        for field, value in _IDENTITY.items()
        for role in ("AUTHOR", "COMMITTER")
        if not _has_config(f"user.{field.lower()}") and not os.environ.get(f"GIT_{role}_{field}")
    }


def _has_config(name: str) -> bool:
    return subprocess.run(["git", "config", name], capture_output=True, check=False).returncode == 0


def _run(*command: str, **environment: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise BranchError(
            f"{' '.join(command[:2])} failed: {reason}. Check the remote, and that the token has `contents: write`."
        )
    return done.stdout.strip()
