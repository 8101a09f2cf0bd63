"""What is installed, which backends are configured and reachable, and what to do about what is not."""

import configparser
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from evergreen import tracking
from evergreen.bundle import MANIFEST
from evergreen.errors import EvergreenError, get_first_line
from evergreen.logs import redact
from evergreen.params import Params, ParamsError
from evergreen.processors import count_processors
from evergreen.settings import Settings, SettingsError, check_cache, explain_unwritable
from evergreen.sources import resolve
from evergreen.text.bundle import Bundle as TextBundle
from evergreen.video.bundle import Bundle as VideoBundle

TEXT_BUNDLE, VIDEO_BUNDLE = Path("models/text"), Path("models/video")
DVC, PARAMS = Path(".dvc"), Path("params.yaml")


@dataclass(frozen=True)
class CheckResult:
    """The result of one check.

    Attributes:
        name: what was checked.
        status: `ok` works; `missing` is absent, and only some work needs it; `problem` is needed, or present but
            broken; `unchecked` is configured but was not contacted.
        detail: the version, address or folder, or what is wrong with it.
        remedy: what to do about it; empty where there is nothing to do.
        required: whether nothing can be trained or shipped before a `problem` here is solved.
    """

    name: str
    status: Literal["ok", "missing", "problem", "unchecked"]
    detail: str
    remedy: str = ""
    required: bool = False


def run_checks(settings: Settings) -> list[CheckResult]:
    """Run every check, from the repository's root. No result shows a credential."""
    checks = [
        _check_python(),
        *_check_packages(),
        _check_compute(),
        *_check_params(),
        *_check_git(),
        _check_dvc(),
        *_check_folders(settings),
        _check_tracking(settings),
        _check_outbox(settings),
        _check_log(settings),
        *_check_bundles(),
        *_check_tools(),
    ]
    return [replace(check, detail=redact(check.detail), remedy=redact(check.remedy)) for check in checks]


def list_failures(checks: list[CheckResult]) -> list[CheckResult]:
    """Return the required checks that have a problem."""
    return [check for check in checks if check.required and check.status == "problem"]


# Python and packages, from the requirements of the installed distribution itself.

_PURPOSES = {
    "train": "the pipeline",
    "video": "the video pipeline",
    "serve": "the service",
    "monitor": "drift reports",
    "scale": "data that one machine can't read",
    "sbom": "the list of what is in the image",
    "demo": "the default texts, weights and video",
    "dev": "tests and checks",
}


def _check_python() -> CheckResult:
    specifier = SpecifierSet(importlib.metadata.metadata("evergreen")["Requires-Python"] or "")
    version = platform.python_version()
    if specifier.contains(version, prereleases=True):
        return CheckResult("python", "ok", version, required=True)
    return CheckResult("python", "problem", version, f"Use Python {specifier}.", required=True)


def _check_packages() -> Iterator[CheckResult]:
    requirements = [Requirement(line) for line in importlib.metadata.requires("evergreen") or []]
    yield _check_group("", [requirement for requirement in requirements if _applies(requirement, "")])
    for extra in importlib.metadata.metadata("evergreen").get_all("Provides-Extra") or []:
        added = [
            requirement
            for requirement in requirements
            if _applies(requirement, extra) and not _applies(requirement, "")
        ]
        yield _check_group(extra, added)


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _check_group(extra: str, requirements: list[Requirement]) -> CheckResult:
    name = f"packages: {extra}" if extra else "packages"
    install = f"pip install -e '.[{extra}]'" if extra else "pip install -e ."
    remedy = f"{install} (for {_PURPOSES[extra]})" if extra in _PURPOSES else install
    absent, outdated = [], []
    for requirement in requirements:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            absent.append(requirement.name)
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            outdated.append(f"{requirement.name} {version} (needs {requirement.specifier})")
    count = f"{len(requirements) - len(absent)} of {len(requirements)}"
    if outdated:
        detail = ", ".join(outdated + [f"{package} (absent)" for package in absent])
        return CheckResult(name, "problem", detail, remedy, required=not extra)
    if absent:
        detail = f"{count}; absent: {', '.join(absent)}"
        return CheckResult(name, "missing" if extra else "problem", detail, remedy, required=not extra)
    return CheckResult(name, "ok", count, required=not extra)


def _check_compute() -> CheckResult:
    cores = count_processors()
    processor = f"CPU, {cores} cores"
    try:
        importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return CheckResult("compute", "ok", f"{processor} (no torch: predicts, can't train)")
    try:
        import torch  # noqa: PLC0415 - takes seconds, and is optional

        device = f"cuda: {torch.cuda.get_device_name(0)}; {processor}" if torch.cuda.is_available() else processor
    except Exception as error:  # a broken native library can raise anything
        remedy = "Install torch again: pip install -e '.[train]'."
        return CheckResult("compute", "problem", f"torch: {error}", remedy)
    return CheckResult("compute", "ok", device)


# The repository.


def _check_params() -> Iterator[CheckResult]:
    try:
        params = Params.load(PARAMS)
    except ParamsError as error:
        remedy = "Correct it, then: evergreen params check" if PARAMS.exists() else "Run from the repository's root."
        yield CheckResult("params", "problem", str(error), remedy, required=True)
        return
    yield CheckResult("params", "ok", str(PARAMS), required=True)
    for corpus in params.data.corpora:
        yield _check_source("corpus", corpus, "preprocess")
    yield _check_source("base model", params.train.base_model, "train")
    if params.train.warm_start:
        yield _check_source("warm start", params.train.warm_start, "train")


def _check_source(name: str, uri: str, stage: str) -> CheckResult:
    if "://" in uri:
        return CheckResult(name, "unchecked", uri, f"Not contacted here; to try it: dvc repro {stage}", required=True)
    try:
        resolve(uri)
    except (EvergreenError, OSError) as error:
        return CheckResult(name, "problem", *_split_remedy(error), required=True)
    return CheckResult(name, "ok", uri, required=True)


def _check_git() -> Iterator[CheckResult]:
    if not shutil.which("git"):
        remedy = "Install git: every version of a model is a commit."
        yield CheckResult("git", "problem", "not on PATH", remedy, required=True)
    elif not _run("git", "rev-parse", "--is-inside-work-tree"):
        yield CheckResult("git", "problem", "no repository here", "Run from the repository's root.", required=True)
    else:
        yield CheckResult("git", "ok", _run("git", "--version"), required=True)
        yield _check_git_user()


def _check_git_user() -> CheckResult:
    if name := _run("git", "config", "user.name"):
        return CheckResult("git user", "ok", name)
    return CheckResult("git user", "problem", "no user.name", "git config user.name NAME (commits need one)")


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False).stdout.strip()


def _check_dvc() -> CheckResult:
    if not DVC.is_dir():
        detail = "no DVC repository here"
        return CheckResult("dvc", "problem", detail, "Run from the repository's root.", required=True)
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read([DVC / "config", DVC / "config.local"], encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        detail = f"{DVC}/config: {get_first_line(error)}"
        return CheckResult("dvc", "problem", detail, "Correct the file, or restore it with git.", required=True)
    remote = config.get("core", "remote", fallback="").strip("\"'")
    url = config.get(f"'remote \"{remote}\"'", "url", fallback="").strip("\"'")
    if url:
        return _check_dvc_remote(remote, url)
    detail = f"default remote {remote} has no url" if remote else "no default remote in .dvc/config"
    return CheckResult("dvc", "problem", detail, "dvc remote add --default NAME URL", required=True)


def _check_dvc_remote(remote: str, url: str) -> CheckResult:
    if "://" in url:
        remedy = "Not contacted here; to try it: dvc status --cloud"
        return CheckResult("dvc", "unchecked", f"remote {remote}: {url}", remedy, required=True)
    folder = (DVC / Path(url).expanduser()).resolve()
    detail = f"remote {remote}: {folder}"
    if reason := explain_unwritable(folder):
        remedy = f"Make it a writable folder, or: dvc remote modify {remote} url URL"
        return CheckResult("dvc", "problem", f"{detail} ({reason})", remedy, required=True)
    if not folder.exists():
        detail += " (made by the first push)"
    return CheckResult("dvc", "ok", detail, required=True)


# What the repository works with.


def _check_folders(settings: Settings) -> Iterator[CheckResult]:
    for name, check, detail in (
        ("state folder", settings.check_state_dir, str(settings.state_dir)),
        ("cache", check_cache, "Hugging Face's libraries can write theirs"),
    ):
        try:
            check()
        except SettingsError as error:
            yield CheckResult(name, "problem", *_split_remedy(error), required=True)
        else:
            yield CheckResult(name, "ok", detail, required=True)


def _check_tracking(settings: Settings) -> CheckResult:
    uri = settings.tracking_uri
    if uri.startswith(("http://", "https://")):
        return _check_server(uri, settings.tracking_timeout)
    if uri.startswith("sqlite:///"):
        return _check_database("tracking", uri, "MLFLOW_TRACKING_URI")
    return CheckResult("tracking", "unchecked", uri, "Not contacted here; to try it: mlflow experiments search")


def _check_server(uri: str, timeout: float) -> CheckResult:
    import httpx  # noqa: PLC0415 - only where a server is configured

    remedy = (
        "Start the server or correct MLFLOW_TRACKING_URI. Training works meanwhile: runs are kept, and "
        "evergreen runs send sends them."
    )
    try:
        response = httpx.get(uri.rstrip("/") + "/health", timeout=timeout, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
        return CheckResult("tracking", "problem", f"{uri} does not answer ({type(error).__name__}: {error})", remedy)
    if not response.is_success:
        return CheckResult("tracking", "problem", f"{uri} answers {response.status_code} at /health", remedy)
    return CheckResult("tracking", "ok", f"{uri} answers")


def _check_log(settings: Settings) -> CheckResult:
    uri = settings.log_url
    if uri.startswith("sqlite:///"):
        return _check_database("prediction log", uri, "DATABASE_URL")
    return CheckResult("prediction log", "unchecked", uri, "Not contacted here; evergreen serve does as it starts")


def _check_database(name: str, uri: str, variable: str) -> CheckResult:
    database = Path(uri.removeprefix("sqlite:///").partition("?")[0]).resolve()
    reason = explain_unwritable(database.parent)
    if not reason and database.exists() and not os.access(database, os.W_OK):
        reason = f"{database} is not writable"
    if not reason:
        return CheckResult(name, "ok", uri, required=True)
    remedy = f"Make it writable, or set EVERGREEN_STATE_DIR or {variable}."
    return CheckResult(name, "problem", f"{uri} ({reason})", remedy, required=True)


def _check_outbox(settings: Settings) -> CheckResult:
    if count := tracking.count_pending(settings):
        return CheckResult("runs to send", "problem", str(count), "evergreen runs send")
    return CheckResult("runs to send", "ok", "none")


def _check_bundles() -> Iterator[CheckResult]:
    remedy = "Fetch it (dvc pull) or make it (dvc repro)."
    for name, folder, bundle_class in (
        ("bundle", TEXT_BUNDLE, TextBundle),
        ("video bundle", VIDEO_BUNDLE, VideoBundle),
    ):
        if not (folder / MANIFEST).exists():
            yield CheckResult(name, "missing", f"none in {folder}", remedy)
            continue
        try:
            version = bundle_class.load(folder).manifest.version
        except (EvergreenError, OSError) as error:
            yield CheckResult(name, "problem", *_split_remedy(error), required=True)
        else:
            yield CheckResult(name, "ok", f"{folder} {version}", required=True)


def _check_tools() -> Iterator[CheckResult]:
    for names, purpose in (
        (("podman", "docker"), "to build and try the serving image"),
        (("act",), "to run the workflows on this machine"),
        (("cml",), "to post reports on pull requests, which CI does"),
    ):
        yield _check_tool(names, purpose)


def _check_tool(names: tuple[str, ...], purpose: str) -> CheckResult:
    name = " or ".join(names)
    for candidate in names:
        if shutil.which(candidate):
            return CheckResult(name, "ok", candidate)
    return CheckResult(name, "missing", "not on PATH", f"Optional. Install {name} {purpose}.")


def _split_remedy(error: Exception) -> tuple[str, str]:
    """Split a message of this package into what is wrong and the remedy that follows it."""
    detail, _, remedy = str(error).partition(". ")
    return detail, remedy or "Correct the path or the permissions."
