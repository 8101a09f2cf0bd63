"""MLflow records of runs, through an outbox: an unavailable server delays little and loses nothing.

A record is written to a folder first, then sent. What can't be sent stays, and `evergreen runs send` sends it later.
One process sends at a time.
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from evergreen.errors import EvergreenError
from evergreen.files import claim
from evergreen.logs import get_logger, redact
from evergreen.settings import Settings

log = get_logger(__name__)


# What stages write, and what none reads, from the repository's root.
_RESULTS = ("dvc.lock", "metrics", "models", "reports")
_UNREAD = ("benchmarks", "docker", "docs", "tests", ".*", "*.md")
_LATEST = "evergreen.recorded_at"
"""Tag of an MLflow run: the time of its youngest record, in milliseconds."""


class TrackingError(EvergreenError):
    """A record can't be kept or read; the message names its folder and the remedy."""


class Manifest(Protocol):
    """What a record takes from a bundle's manifest."""

    run: str
    name: str
    version: str
    data_hash: str


@dataclass
class Run:
    """A record of a run. Several records with one `key` become one MLflow run.

    A record with another value for a parameter that the run has, as when a bundle is evaluated again in another way,
    becomes a run of its own below it.

    Attributes:
        key: identifies the run for ever; sending twice changes nothing.
        params, metrics: nested; the names are joined with dots.
        steps: rows with `step` and numbers, drawn by MLflow as curves.
        artifacts: files to keep with the run.
        bundle: a bundle to keep with the run and to register as a version of `model`.
    """

    key: str
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    steps: list[dict[str, float]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: list[Path] = field(default_factory=list)
    bundle: Path | None = None
    model: str = "evergreen-text"

    @classmethod
    def of_bundle(cls, manifest: Manifest, stage: str, **fields: Any) -> Self:
        """Describe what a stage did for a bundle: the records of all its stages become one MLflow run."""
        tags = {"data_hash": manifest.data_hash, "stage": stage}
        name = f"{manifest.name} {manifest.version}"
        return cls(manifest.run, name, tags=tags, model=f"evergreen-{manifest.name}", **fields)


@dataclass
class FlushResult:
    """How many records were sent, how many stay, and why; `busy` where another process is sending them."""

    sent: int
    kept: int
    problem: str | None = None
    busy: bool = False


def record(run: Run, settings: Settings) -> FlushResult:
    """Keep a run in the outbox, then try to send all that is there.

    Nothing that a server or another process does makes it fail. It waits for an answer for `tracking_timeout` seconds,
    and sends for ten times as long to a server that answers.

    Raises:
        TrackingError: when the run can't be kept.
    """
    outbox = _get_outbox(settings)
    folder = outbox / f"{time.time_ns()}-{run.key}"
    partial = folder.with_suffix(".partial")
    run.tags |= {"git_commit": describe_commit()}
    try:
        _write(run, partial)
        partial.rename(folder)
    except OSError as error:  # of shutil too
        shutil.rmtree(partial, ignore_errors=True)
        raise TrackingError(
            f"{folder}: the run can't be kept ({error}). Set EVERGREEN_STATE_DIR to a folder that you may write."
        ) from error
    flushed = flush(settings, settings.tracking_timeout * 10)
    if flushed.problem:
        log.warning("run kept for later", problem=flushed.problem, kept=flushed.kept, remedy="evergreen runs send")
    return flushed


def _write(run: Run, folder: Path) -> None:
    (folder / "artifacts").mkdir(parents=True)
    for file in run.artifacts:
        shutil.copy2(file, folder / "artifacts" / file.name)
    if run.bundle:
        shutil.copytree(run.bundle, folder / "bundle")
    fields = asdict(run) | {"artifacts": [], "bundle": None, "at": time.time_ns() // 1_000_000}
    (folder / "run.json").write_text(json.dumps(fields), encoding="utf-8")


def count_pending(settings: Settings) -> int:
    """Count the records that wait to be sent."""
    return len(_list_records(settings))


def flush(settings: Settings, seconds: float = math.inf) -> FlushResult:
    """Send what is in the outbox, oldest first; a record is removed once the server has all of it.

    Args:
        settings: where the outbox and the server are.
        seconds: after which sending to a server ends; what was not sent stays.
    """
    if not _list_records(settings):
        return FlushResult(0, 0)
    try:
        lock = claim(settings.state_dir / "outbox.lock")
    except OSError as error:  # a disk that knows no locks
        return FlushResult(0, count_pending(settings), f"no lock on the outbox ({error})")
    if lock is None:
        return FlushResult(0, count_pending(settings), "another process is sending", busy=True)
    with lock:
        return _flush(settings, seconds)


def _flush(settings: Settings, seconds: float) -> FlushResult:
    if problem := _check_server(settings):
        return FlushResult(0, count_pending(settings), problem)
    try:
        client = _Client(settings, seconds)
    except Exception as error:  # an address that MLflow does not know, or no MLflow
        return FlushResult(0, count_pending(settings), _describe(error))
    sent, problem = 0, None
    tried: set[Path] = set()
    # Listed again each time: what other processes add meanwhile, they leave to this one.
    while waiting := [folder for folder in _list_records(settings) if folder not in tried]:
        folder = waiting[0]
        tried.add(folder)
        try:
            _send(folder, client, settings)
        except Exception as error:  # whatever the server or the network does, the record stays; others may pass
            problem = problem or _describe(error)
            if client.is_late() or _check_server(settings):
                break
        else:
            _remove(folder)
            sent += 1
    return FlushResult(sent, count_pending(settings), problem)


def _describe(error: Exception) -> str:
    if isinstance(error, TrackingError):
        return str(error)
    return redact(" ".join(f"{type(error).__name__}: {error}".split())[:300])


def _remove(folder: Path) -> None:
    # Renamed first: a kill half-way must not leave a record that looks whole.
    sent = folder.rename(folder.with_suffix(".sent"))
    shutil.rmtree(sent)


def _get_outbox(settings: Settings) -> Path:
    return settings.state_dir / "outbox"


def _list_records(settings: Settings) -> list[Path]:
    outbox = _get_outbox(settings)
    if not outbox.is_dir():
        return []
    return sorted(path for path in outbox.iterdir() if path.is_dir() and "." not in path.name)


def _is_server(uri: str) -> bool:
    return urlsplit(uri).scheme in ("http", "https")


def _check_server(settings: Settings) -> str | None:
    """Say why the server does not answer within `tracking_timeout` seconds, all told; None when it does."""
    uri, timeout = settings.tracking_uri, settings.tracking_timeout
    try:
        if not _is_server(uri):
            return None
        address = urlsplit(uri)
        host = address.hostname
        # Without what MLflow would log in with: any answer will do.
        address = address._replace(netloc=address.netloc.rpartition("@")[2])
    except ValueError as error:
        return redact(f"{uri}: not an address ({error})")
    problems: list[str | None] = []
    # A thread, since nothing else limits looking up a name, or an answer that comes byte by byte.
    thread = threading.Thread(target=lambda: problems.append(_ask(address.geturl(), timeout)), daemon=True)
    thread.start()
    thread.join(timeout)
    problem = problems[0] if problems else f"no answer within {timeout:g} s"
    return f"no connection to the tracking server {host} ({problem})" if problem else None


def _ask(uri: str, timeout: float) -> str | None:
    import httpx  # noqa: PLC0415 - only where a server is configured

    try:
        # Not /health, which a server answers that has lost its database. MLflow itself checks certificates.
        url = f"{uri.rstrip('/')}/api/2.0/mlflow/experiments/get?experiment_id=0"
        httpx.get(url, timeout=timeout, verify=False)  # noqa: S501
    except Exception as error:  # a malformed address raises one of many
        return f"{type(error).__name__}: {error}"
    return None


class _Client:
    """MLflow's client, no call of which begins after a deadline, or waits for an answer beyond it."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # its logs go where ours go
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # it would retry for minutes; the outbox does
        import mlflow  # noqa: PLC0415 - takes seconds to import, and only sending needs it

        self._client = mlflow.MlflowClient(settings.tracking_uri)
        self._timeout = settings.tracking_timeout * 10
        self._deadline = time.monotonic() + seconds if _is_server(settings.tracking_uri) else math.inf

    def is_late(self) -> bool:
        """Whether the deadline is over."""
        return time.monotonic() >= self._deadline

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def call_in_time(*args: Any, **kwargs: Any) -> Any:
            if self.is_late():
                raise TimeoutError("the tracking server is too slow")
            left = min(self._timeout, self._deadline - time.monotonic())
            os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(max(1, round(left)))  # read for each request
            return call(*args, **kwargs)

        return call_in_time


def _send(folder: Path, client: _Client, settings: Settings) -> None:
    run = _load(folder)
    experiment_id = _find_experiment(client, settings)
    shared, own = _find_runs(client, experiment_id, run)
    run_id, tags, params = own.info.run_id, own.data.tags, own.data.params
    # A record may come after a younger one, which was not kept as long: it adds what is missing, and replaces nothing.
    is_latest = run["at"] >= int(tags.get(_LATEST, 0))
    new_tags = {name: value for name, value in run["tags"].items() if is_latest or name not in tags}
    new_params = {name: value for name, value in _format_params(run).items() if name not in params}
    _log(client, run_id, run, new_params, new_tags | ({_LATEST: str(run["at"])} if is_latest else {}))
    there = set() if is_latest else {file.path for file in client.list_artifacts(run_id)}
    for file in sorted((folder / "artifacts").iterdir()):
        if file.name not in there:
            client.log_artifact(run_id, str(file))
    if (folder / "bundle").is_dir():
        _register(client, shared.info.run_id, run["key"], run.get("model", "evergreen-text"), folder / "bundle")
    client.set_terminated(run_id, "FINISHED", end_time=max(run["at"], own.info.end_time or 0))


def _load(folder: Path) -> dict[str, Any]:
    try:
        fields: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        return {"key": fields["key"], "at": fields["at"], **fields}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise TrackingError(f"{folder}: not a whole record ({type(error).__name__}). Remove the folder") from error


def _find_experiment(client: _Client, settings: Settings) -> str:
    name = settings.mlflow_experiment
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        store = None if settings.mlflow_tracking_uri else (settings.state_dir.resolve() / "artifacts").as_uri()
        try:
            return str(client.create_experiment(name, store))
        except Exception:
            experiment = client.get_experiment_by_name(name)  # made by another machine meanwhile
            if experiment is None:
                raise
    return str(experiment.experiment_id)


def _find_runs(client: _Client, experiment_id: str, run: dict[str, Any]) -> tuple[Any, Any]:
    """Find or create the MLflow run of a record's key, and the one that takes the record: the same, or one below it."""
    key, params = run["key"], _format_params(run)
    shared = _find_run(client, experiment_id, run, key, {})
    sent = shared.data.params
    if all(sent.get(name, value) == value for name, value in params.items()):
        return shared, shared
    digest = hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:8]
    return shared, _find_run(client, experiment_id, run, f"{key}-{digest}", {"mlflow.parentRunId": shared.info.run_id})


def _find_run(client: _Client, experiment_id: str, run: dict[str, Any], key: str, tags: dict[str, str]) -> Any:
    matches = client.search_runs([experiment_id], f"tags.`evergreen.run` = '{key}'")
    if matches:
        return matches[0]
    tags = {"evergreen.run": key, **tags}
    return client.create_run(experiment_id, start_time=run["at"], tags=tags, run_name=run["name"])


def _format_params(run: dict[str, Any]) -> dict[str, str]:
    return {name: str(value)[:6000] for name, value in _flatten(run["params"]).items()}  # the server's limit


def _log(client: _Client, run_id: str, run: dict[str, Any], params: dict[str, str], tags: dict[str, str]) -> None:
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

    metrics = [Metric(name, value, run["at"], 0) for name, value in _select_numbers(run["metrics"]).items()]
    for row in run["steps"]:
        numbers = _select_numbers({name: value for name, value in row.items() if name != "step"})
        metrics += [Metric(f"training.{name}", value, run["at"], int(row["step"])) for name, value in numbers.items()]
    all_params = [Param(name, value) for name, value in params.items()]
    all_tags = [RunTag(name, value) for name, value in tags.items()]
    for start in range(0, max(len(params), len(metrics), 1), 100):  # the server's limits on one request
        client.log_batch(
            run_id, metrics[start : start + 100], all_params[start : start + 100], all_tags if not start else []
        )


def _register(client: _Client, run_id: str, key: str, model: str, bundle: Path) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if any(version.run_id == run_id for version in client.search_model_versions(f"name = '{model}'")):
        return  # and has its files, which a key never changes
    client.log_artifacts(run_id, str(bundle), "bundle")
    source = f"{client.get_run(run_id).info.artifact_uri}/bundle"
    client.create_model_version(model, source, run_id, tags={"evergreen.run": key})


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _select_numbers(tree: dict[str, Any]) -> dict[str, float]:
    flat = _flatten(tree)
    return {
        # MLflow allows only some characters in names.
        "".join(c if c.isalnum() or c in "_-./ " else "_" for c in name): float(value)
        for name, value in flat.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }


def describe_commit() -> str:
    """Name the commit that a run was made from: 40 hexadecimal digits, or `unknown` outside a repository.

    It ends in `-dirty` where a tracked file that a run depends on differs from the commit: code, parameters, `.dvc`
    files. What the stages write (metrics, reports, cards, `dvc.lock`) are results and make nothing dirty, and neither
    do pages, tests and other files that no stage reads.
    """
    commit = _run_git("rev-parse", "--verify", "HEAD")
    if not commit:
        return "unknown"
    ignored = [f":(exclude,glob){path}{rest}" for path in (*_RESULTS, *_UNREAD) for rest in ("", "/**")]
    # No lock on the index: DVC and others may work on it at this moment.
    changed = _run_git("--no-optional-locks", "status", "--porcelain", "--untracked-files=no", "--", ".", *ignored)
    return f"{commit}-dirty" if changed else commit


def _run_git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", check=False)
    except OSError:  # no git here
        return ""
    return done.stdout.strip()
