"""The smoke test: does a running server have the bundle of the release, and answer as the bundle does?"""

import csv
import io
import time
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any, Protocol

import httpx
from pydantic import ValidationError

from evergreen.errors import EvergreenError
from evergreen.params import ReleaseParams
from evergreen.release.golden import GoldenSet, GoldenText, ServedModel
from evergreen.release.server import Server, ServerError

MAX_DIFFERENCES = 10
"""That are shown."""
_PAUSE = 0.2
"""Seconds between two looks at a batch."""


class SmokeError(EvergreenError):
    """The server does not answer as the bundle does; the message has the first differences."""


class _Answered(Protocol):
    @property
    def label(self) -> str: ...
    @property
    def probabilities(self) -> dict[str, float]: ...


def smoke(server: Server, golden: GoldenSet, params: ReleaseParams, with_batch: bool = True) -> str:
    """Ask a server for everything that a release needs, and say what was asked.

    Args:
        server: may still be starting.
        golden: what it must answer.
        params: limits.
        with_batch: send a file as well.

    Raises:
        ServerError: when there is no usable answer.
        SmokeError: when an answer is another one.
    """
    server.wait_until_ready(params.ready_seconds)
    differences = compare_models(server.ask_json("GET", "/v1/model"), golden)
    if not differences:  # another model's answers differ anyway
        alone = [server.classify([text])[0] for text in golden.texts]
        differences += compare_answers("alone", golden.samples, alone, params.max_difference)
        together = server.classify(golden.texts)
        differences += compare_answers("together", golden.samples, together, params.max_difference)
    if not differences and with_batch:
        differences += compare_rows(golden.samples, _run_batch(server, golden.texts, params.batch_seconds))
    if "evergreen_requests_total" not in server.ask("GET", "/metrics").text:
        differences.append("/metrics: counts no requests")
    if differences:
        more = len(differences) - MAX_DIFFERENCES
        lines = [*differences[:MAX_DIFFERENCES], *([f"and {more} more"] if more > 0 else [])]
        raise SmokeError(f"{server.url} does not answer as the release does:\n  " + "\n  ".join(lines))
    batch = ", in a batch" if with_batch else ""
    return f"{golden.text_model} at {server.url}: {len(golden.samples)} texts alone, together{batch} as the bundle"


def compare_models(served: Any, golden: GoldenSet) -> list[str]:
    """Name what differs between the models that a server has and those of the release."""
    differences = []
    for kind, expected in (("text", golden.text_model), ("video", golden.video_model)):
        if expected is None:
            continue
        try:
            model = ServedModel.model_validate(served[kind])
        except (ValidationError, KeyError, TypeError):
            differences.append(f"/v1/model: no {kind} model; the release has {expected}")
            continue
        if model == expected:
            continue
        if str(model) != str(expected):
            differences.append(f"/v1/model: {model}; the release has {expected}")
        else:
            names = sorted(model.sha256.keys() | expected.sha256.keys())
            files = [name for name in names if model.sha256.get(name) != expected.sha256.get(name)]
            what = ", ".join(files) if files else "its data hash"
            differences.append(f"/v1/model: {model}, but not the release's: {what} differs")
    return differences


def compare_answers(
    way: str, samples: Sequence[GoldenText], answers: Sequence[_Answered], max_difference: float
) -> list[str]:
    """Name the golden texts that a server answers otherwise, by their position: a log must not have texts."""
    differences = []
    for position, (sample, answer) in enumerate(zip(samples, answers, strict=True)):
        if answer.label != sample.label:
            differences.append(f"text {position}, {way}: {answer.label}; the bundle says {sample.label}")
            continue
        pairs = [(answer.probabilities.get(name, 0.0), value) for name, value in sample.probabilities.items()]
        gap = max(abs(given - value) for given, value in pairs)
        if not gap <= max_difference:  # NaN is a difference
            differences.append(
                f"text {position}, {way}: a probability differs by {gap:.4f}, more than {max_difference:g}"
            )
    return differences


def compare_rows(samples: Sequence[GoldenText], labels: Sequence[str]) -> list[str]:
    """Name the rows of a batch that are missing, or have another label."""
    differences = []
    if len(labels) != len(samples):
        differences.append(f"/v1/batches: {len(labels)} rows came back of {len(samples)}")
    for row, (sample, label) in enumerate(zip_longest(samples, labels)):
        if sample is not None and label is not None and label != sample.label:
            differences.append(f"row {row} of the batch: {label}; the bundle says {sample.label}")
    return differences


def _run_batch(server: Server, texts: list[str], seconds: float) -> list[str]:
    """Send a file of texts, and read the labels of its rows."""
    content = io.StringIO()
    csv.writer(content).writerows([["text"], *([text] for text in texts)])
    end = time.monotonic() + seconds
    job = _create_job(server, content.getvalue().encode(), end)
    path = f"/v1/batches/{job['id']}"
    while job["status"] in ("queued", "running"):
        if time.monotonic() >= end:
            raise ServerError(f"{path}: still {job['status']} after {seconds:g} s.")
        time.sleep(_PAUSE)
        job = server.ask_json("GET", path)
    if job["status"] != "succeeded":
        raise ServerError(f"{path}: {job['status']}. {job['detail'] or ''}".strip())
    rows = csv.DictReader(io.StringIO(server.ask("GET", job["results"][0]).text, newline=""))
    labels = [row.get("label") or "" for row in rows]
    server.ask("DELETE", path)
    return labels


def _create_job(server: Server, content: bytes, end: float) -> Any:
    # A server that takes over gets the jobs once the one before has ended, and refuses them until then.
    while True:
        try:
            return server.ask_json("POST", "/v1/batches", files={"file": ("golden.csv", content)})
        except ServerError as error:
            if error.status != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() >= end:
                raise
            time.sleep(_PAUSE)
