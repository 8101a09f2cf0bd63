"""What is installed, which backends are configured and reachable, and what to do about what is not.

`ok` works; `missing` is not there and needed only by some work; `problem` is needed, or there but broken.
"""

import configparser
import importlib.metadata
import operator
import os
import platform
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from evergreen import params, sources, tracking
from evergreen.settings import Settings
from evergreen.text import bundle

BUNDLE, DVC, PARAMS = Path("models/text"), Path(".dvc"), Path("params.yaml")


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        remedy: what to do about it; empty where there is nothing to do.
        required: whether nothing can be trained or shipped before a `problem` here is solved.
    """

    name: str
    status: Literal["ok", "missing", "problem"]
    found: str
    remedy: str = ""
    required: bool = False


def examine(settings: Settings) -> list[Check]:
    """Run every check, from the repository's root. No finding shows a credential."""
    parts: list[Callable[[], Iterator[Check]]] = [
        _python,
        _packages,
        _compute,
        _parameters,
        _git,
        _dvc,
        lambda: _tracking(settings),
        lambda: _outbox(settings),
        _bundle,
        _tools,
    ]
    checks = [check for part in parts for check in part()]
    return [replace(check, found=hidden(check.found), remedy=hidden(check.remedy)) for check in checks]


def failed(checks: list[Check]) -> list[Check]:
    """Return the required checks that found a problem."""
    return [check for check in checks if check.required and check.status == "problem"]


# Names and passwords in an address, and secrets among its query. A password may hold an unquoted / or @, so
# all up to the last @ goes; hf://ORG/MODEL@REVISION has none.
_CREDENTIALS = re.compile(r"(?<!\bhf:)//(?:[^\s/@]*:\S*|[^\s/]*)@")
_SECRET = re.compile(r"([?&][\w.-]*(?:token|passw|secret|signature|key|credential|sig)[\w.-]*=)[^&\s]+", re.IGNORECASE)


def hidden(text: str) -> str:
    """Hide the credentials of every address in a text."""
    return _SECRET.sub(r"\1***", _CREDENTIALS.sub("//***@", text))


# Python and packages, from the requirements of the installed distribution itself.

_PURPOSES = {
    "train": "the pipeline",
    "serve": "the service",
    "monitor": "drift reports",
    "scale": "data that one machine can't read",
    "demo": "the default texts and weights",
    "dev": "tests and checks",
}
_REQUIREMENT = re.compile(r"\s*(?P<name>[\w.-]+)\s*(?:\[[^]]*\])?\s*\(?(?P<versions>[^;)]*)\)?\s*(?:;(?P<marker>.*))?")
_VERSION = re.compile(r"\s*(?P<compare>[<>=!~]=?=?)\s*(?P<version>\S+)\s*")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def _python() -> Iterator[Check]:
    wanted = importlib.metadata.metadata("evergreen")["Requires-Python"] or ""
    found = platform.python_version()
    if _in_range(found, wanted):
        yield Check("python", "ok", found, required=True)
    else:
        yield Check("python", "problem", found, f"Use Python {wanted}.", required=True)


def _packages() -> Iterator[Check]:
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for line in importlib.metadata.requires("evergreen") or []:
        if requirement := _REQUIREMENT.fullmatch(line):
            named = re.search(r"extra\s*==\s*['\"]([\w.-]+)", requirement["marker"] or "")
            groups[named[1] if named else ""].append((requirement["name"], requirement["versions"].strip()))
    for extra, requirements in groups.items():
        yield _group(extra, requirements)


def _group(extra: str, requirements: list[tuple[str, str]]) -> Check:
    name = f"packages: {extra}" if extra else "packages"
    install = f"pip install -e '.[{extra}]'" if extra else "pip install -e ."
    remedy = f"{install} (for {_PURPOSES[extra]})" if extra in _PURPOSES else install
    absent, wrong = [], []
    for package, wanted in requirements:
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            absent.append(package)
        else:
            if not _in_range(found, wanted):
                wrong.append(f"{package} {found} (wanted {wanted})")
    count = f"{len(requirements) - len(absent)} of {len(requirements)}"
    if wrong:
        told = ", ".join(wrong + [f"{package} (absent)" for package in absent])
        return Check(name, "problem", told, remedy, required=not extra)
    if absent:
        found = f"{count}; absent: {', '.join(absent)}"
        return Check(name, "missing" if extra else "problem", found, remedy, required=not extra)
    return Check(name, "ok", count, required=not extra)


def _in_range(found: str, wanted: str) -> bool:
    for part in filter(None, wanted.split(",")):
        limit = _VERSION.fullmatch(part)
        compare = _COMPARE.get(limit["compare"]) if limit else None
        # What this small reader does not know (~=, 2.*) is left to pip.
        if (
            limit
            and compare
            and "*" not in limit["version"]
            and not compare(_numbers(found), _numbers(limit["version"]))
        ):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and not parts[-1]:
        parts.pop()
    return tuple(parts)


def _compute() -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processor = f"CPU, {cores} cores"
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        yield Check("compute", "ok", f"{processor} (no torch: answers only)")
        return
    try:
        import torch  # noqa: PLC0415 - takes seconds, and may not be there

        device = f"cuda: {torch.cuda.get_device_name(0)}; {processor}" if torch.cuda.is_available() else processor
    except Exception as error:  # a broken native library can raise anything
        yield Check("compute", "problem", f"torch: {error}", "Install torch again: pip install -e '.[train]'.")
    else:
        yield Check("compute", "ok", device)


# The repository.


def _parameters() -> Iterator[Check]:
    try:
        chosen = params.load(PARAMS)
    except params.ParamsError as error:
        remedy = "Correct it, then: evergreen params check" if PARAMS.exists() else "Run from the repository's root."
        yield Check("params", "problem", str(error), remedy, required=True)
        return
    except (OSError, UnicodeDecodeError) as error:
        yield Check("params", "problem", f"{PARAMS}: {error}", "Make it a readable UTF-8 file.", required=True)
        return
    yield Check("params", "ok", str(PARAMS), required=True)
    for corpus in chosen.data.corpora:
        yield _source("texts", corpus)
    yield _source("weights", chosen.train.weights)
    if chosen.train.warm_start:
        yield _source("warm start", chosen.train.warm_start)


def _source(name: str, uri: str) -> Check:
    if "://" in uri:
        return Check(name, "ok", f"{uri} (not checked: needs the network)", required=True)
    try:
        sources.local(uri)
    except (sources.SourceError, OSError) as error:
        return Check(name, "problem", *_parts(error), required=True)
    return Check(name, "ok", uri, required=True)


def _git() -> Iterator[Check]:
    if not shutil.which("git"):
        yield Check(
            "git",
            "problem",
            "not on PATH",
            "Install git: every version of a model is a commit.",
            required=True,
        )
        return
    if not _output("git", "rev-parse", "--is-inside-work-tree"):
        yield Check("git", "problem", "no repository here", "Run from the repository's root.", required=True)
        return
    yield Check("git", "ok", _output("git", "--version"), required=True)
    if name := _output("git", "config", "user.name"):
        yield Check("git user", "ok", name)
    else:
        yield Check("git user", "problem", "no user.name", "git config user.name NAME (commits need one)")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _dvc() -> Iterator[Check]:
    if not DVC.is_dir():
        yield Check("dvc", "problem", "no DVC repository here", "Run from the repository's root.", required=True)
        return
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read([DVC / "config", DVC / "config.local"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        found = f"{DVC}/config: {str(error).splitlines()[0]}"
        yield Check("dvc", "problem", found, "Correct the file, or restore it with git.", required=True)
        return
    remote = config.get("core", "remote", fallback="").strip("\"'")
    url = config.get(f"'remote \"{remote}\"'", "url", fallback="").strip("\"'")
    if url:
        yield _dvc_remote(remote, url)
    else:
        found = f"default remote {remote} has no url" if remote else "no default remote in .dvc/config"
        yield Check("dvc", "problem", found, "dvc remote add --default NAME URL", required=True)


def _dvc_remote(remote: str, url: str) -> Check:
    if "://" in url:
        return Check("dvc", "ok", f"remote {remote}: {url} (not checked: needs the network)", required=True)
    folder = (DVC / Path(url).expanduser()).resolve()
    found = f"remote {remote}: {folder}"
    if reason := _unwritable(folder):
        remedy = f"Make it a writable folder, or: dvc remote modify {remote} url URL"
        return Check("dvc", "problem", f"{found} ({reason})", remedy, required=True)
    return Check("dvc", "ok", found if folder.exists() else f"{found} (made by the first push)", required=True)


def _unwritable(folder: Path) -> str | None:
    """Tell why nothing can be written to a folder, or to the one it would be made in."""
    nearest = next(path for path in [folder, *folder.parents] if os.access(path, os.F_OK))
    if not nearest.is_dir():
        return f"{nearest} is a file"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is not writable"


# What the repository works with.


def _tracking(settings: Settings) -> Iterator[Check]:
    uri = settings.tracking_uri
    if uri.startswith(("http://", "https://")):
        yield _server(uri, settings.tracking_timeout)
    elif uri.startswith("sqlite:///"):
        database = Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()
        reason = _unwritable(database.parent)
        if not reason and database.exists() and not os.access(database, os.W_OK):
            reason = f"{database} is not writable"
        if reason:
            remedy = "Make it writable, or set EVERGREEN_STATE_DIR or MLFLOW_TRACKING_URI."
            yield Check("tracking", "problem", f"{uri} ({reason})", remedy, required=True)
        else:
            yield Check("tracking", "ok", uri, required=True)
    else:
        yield Check("tracking", "ok", f"{uri} (not checked)")


def _server(uri: str, timeout: float) -> Check:
    import httpx  # noqa: PLC0415 - only where a server is configured

    remedy = (
        "Start the server or correct MLFLOW_TRACKING_URI. Training goes on meanwhile: runs are kept, and "
        "evergreen runs send sends them."
    )
    try:
        answer = httpx.get(uri.rstrip("/") + "/health", timeout=timeout, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return Check("tracking", "problem", f"{uri} does not answer ({type(error).__name__}: {error})", remedy)
    if not answer.is_success:
        return Check("tracking", "problem", f"{uri} answers {answer.status_code} at /health", remedy)
    return Check("tracking", "ok", f"{uri} answers")


def _outbox(settings: Settings) -> Iterator[Check]:
    if waiting := tracking.pending(settings):
        yield Check("runs to send", "problem", str(waiting), "evergreen runs send")
    else:
        yield Check("runs to send", "ok", "none")


def _bundle() -> Iterator[Check]:
    if not (BUNDLE / bundle.MANIFEST).exists():
        yield Check("bundle", "missing", f"none in {BUNDLE}", "Fetch it (dvc pull) or make it (dvc repro).")
        return
    try:
        manifest = bundle.verify(BUNDLE)
    except (bundle.BundleError, OSError) as error:
        yield Check("bundle", "problem", *_parts(error), required=True)
    else:
        yield Check("bundle", "ok", f"{BUNDLE} {manifest.version}, {manifest.precision}", required=True)


def _tools() -> Iterator[Check]:
    for names, purpose in (
        (("podman", "docker"), "to build and try the serving image"),
        (("act",), "to run the workflows on this machine"),
        (("cml",), "to post reports on pull requests, which CI does"),
    ):
        found = next((name for name in names if shutil.which(name)), None)
        name = " or ".join(names)
        if found:
            yield Check(name, "ok", found)
        else:
            yield Check(name, "missing", "not on PATH", f"Optional. Install {name} {purpose}.")


def _parts(error: Exception) -> tuple[str, str]:
    """Split a message of this package into what was found and the remedy that follows it."""
    found, _, remedy = str(error).partition(". ")
    return found, remedy or "Correct the path or the permissions."
