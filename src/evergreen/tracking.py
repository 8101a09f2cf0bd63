"""MLflow records of runs, through an outbox: an unavailable server delays little and loses nothing.

A record is written to a folder first, then sent. What can't be sent stays, and `evergreen runs send` sends it later.
"""

import json
import math
import os
import shutil
import socket
import subprocess
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from evergreen.logs import get_logger, redact
from evergreen.settings import Settings

log = get_logger(__name__)


class Manifest(Protocol):
    """What a record takes from a bundle's manifest."""

    run: str
    name: str
    version: str
    data_hash: str


@dataclass
class Run:
    """A record of a run. Several records with one `key` become one MLflow run.

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
    """How many records were sent, how many stay, and why."""

    sent: int
    kept: int
    problem: str | None = None


def record(run: Run, settings: Settings) -> FlushResult:
    """Keep a run in the outbox, then try to send all that is there."""
    outbox = _get_outbox(settings)
    folder = outbox / f"{time.time_ns()}-{run.key}"
    partial = folder.with_suffix(".partial")
    (partial / "artifacts").mkdir(parents=True)
    for file in run.artifacts:
        shutil.copy2(file, partial / "artifacts" / file.name)
    if run.bundle:
        shutil.copytree(run.bundle, partial / "bundle")
    run.tags |= {"git_commit": _describe_commit()}
    written = asdict(run) | {"artifacts": [], "bundle": None, "at": time.time_ns() // 1_000_000}
    (partial / "run.json").write_text(json.dumps(written), encoding="utf-8")
    partial.rename(folder)
    flushed = flush(settings)
    if flushed.problem:
        log.warning("run kept for later", problem=flushed.problem, kept=flushed.kept, remedy="evergreen runs send")
    return flushed


def count_pending(settings: Settings) -> int:
    """Count the records that wait to be sent."""
    return len(_list_records(settings))


def flush(settings: Settings) -> FlushResult:
    """Send what is in the outbox, oldest first; a record is removed once the server has all of it."""
    records = _list_records(settings)
    if not records:
        return FlushResult(0, 0)
    if problem := _check_connection(settings):
        return FlushResult(0, len(records), problem)
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")  # its logs go where ours go
    # MLflow would retry for minutes by default.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(max(1, round(settings.tracking_timeout * 10))))
    sent, problem = 0, None
    for folder in records:
        try:
            _send(folder, settings)
        except Exception as error:  # whatever the server or the network does, the record stays; others may pass
            problem = problem or redact(f"{type(error).__name__}: {str(error)[:300]}")
        else:
            _remove(folder)
            sent += 1
    return FlushResult(sent, len(records) - sent, problem)


def _remove(folder: Path) -> None:
    # Renamed first: a kill half-way must not leave a record that looks whole.
    sent = folder.rename(folder.with_suffix(".sent"))
    shutil.rmtree(sent)


def _get_outbox(settings: Settings) -> Path:
    return settings.state_dir / "outbox"


def _list_records(settings: Settings) -> list[Path]:
    outbox = _get_outbox(settings)
    return sorted(path for path in outbox.iterdir() if not path.suffix) if outbox.is_dir() else []


def _check_connection(settings: Settings) -> str | None:
    """Say why no connection can be made, within `tracking_timeout` seconds; None when one can."""
    address = urlsplit(settings.tracking_uri)
    if address.scheme not in ("http", "https"):
        return None
    try:
        port = address.port or (443 if address.scheme == "https" else 80)
        socket.create_connection((address.hostname or "", port), settings.tracking_timeout).close()
    except (OSError, ValueError) as error:
        return f"no connection to the tracking server {address.hostname} ({error})"
    return None


def _send(folder: Path, settings: Settings) -> None:
    import mlflow  # noqa: PLC0415 - takes seconds to import, and only sending needs it
    from mlflow.entities import Metric, Param, RunTag  # noqa: PLC0415

    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    client = mlflow.MlflowClient(settings.tracking_uri)
    experiment = client.get_experiment_by_name(settings.mlflow_experiment)
    if experiment is None:
        store = None if settings.mlflow_tracking_uri else (settings.state_dir.resolve() / "artifacts").as_uri()
        experiment_id = client.create_experiment(settings.mlflow_experiment, store)
    else:
        experiment_id = experiment.experiment_id
    matches = client.search_runs([experiment_id], f"tags.`evergreen.run` = '{run['key']}'")
    if matches:
        run_id = matches[0].info.run_id
    else:
        tags = {"evergreen.run": run["key"]}
        run_id = client.create_run(experiment_id, start_time=run["at"], tags=tags, run_name=run["name"]).info.run_id
    sent_params = matches[0].data.params if matches else {}
    params = [
        Param(name, str(value)[:6000]) for name, value in _flatten(run["params"]).items() if name not in sent_params
    ]
    metrics = [Metric(name, value, run["at"], 0) for name, value in _select_numbers(run["metrics"]).items()]
    for row in run["steps"]:
        numbers = _select_numbers({name: value for name, value in row.items() if name != "step"})
        metrics += [Metric(f"training.{name}", value, run["at"], int(row["step"])) for name, value in numbers.items()]
    run_tags = [RunTag(name, value) for name, value in run["tags"].items()]
    for start in range(0, max(len(params), len(metrics), 1), 100):  # the server's limits on one request
        client.log_batch(
            run_id, metrics[start : start + 100], params[start : start + 100], run_tags if not start else []
        )
    if any((folder / "artifacts").iterdir()):
        client.log_artifacts(run_id, str(folder / "artifacts"))
    if (folder / "bundle").is_dir():
        client.log_artifacts(run_id, str(folder / "bundle"), "bundle")
        _register(client, run_id, run["key"], run.get("model", "evergreen-text"))
    client.set_terminated(run_id, "FINISHED", end_time=run["at"])


def _register(client: Any, run_id: str, key: str, model: str) -> None:
    from mlflow.exceptions import MlflowException  # noqa: PLC0415

    try:
        client.create_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if not any(v.run_id == run_id for v in client.search_model_versions(f"name = '{model}'")):
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


def _describe_commit() -> str:
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True, check=False
        )
    except OSError:  # no git here
        return "unknown"
    return described.stdout.strip() or "unknown"
