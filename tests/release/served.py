"""A running server with a tiny bundle, its golden set, and a proxy that spoils what it answers."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
from pydantic import SecretStr

from evergreen.params import Params, ReleaseParams
from evergreen.release.golden import GoldenSet, GoldenText, ServedModel
from evergreen.release.server import Server
from evergreen.text.runtime import Classifier

ROOT = Path(__file__).parents[2]
TEXTS = [f"word{i} flight word{(7 * i) % 200} good" for i in range(12)]


def make_release_params(**changes: Any) -> ReleaseParams:
    """Limits for a measurement of two seconds."""
    values = {"min_requests": 20, "probes_per_second": 20.0, "ready_seconds": 5.0, "batch_seconds": 30.0}
    return Params.load(ROOT / "params.yaml").release.model_copy(update=values | changes)


def make_golden(bundle: Path) -> GoldenSet:
    classifier = Classifier.load(bundle)
    samples = [
        GoldenText(text=text, label=answer.label, probabilities=answer.probabilities)
        for text, answer in zip(TEXTS, classifier.predict(TEXTS), strict=True)
    ]
    model = ServedModel.of(classifier.manifest)
    return GoldenSet(text_model=model, video_model=None, data_cutoff="2026-03-01T00:00:00+00:00", samples=samples)


def open_server(url: str) -> Server:
    return Server(url, SecretStr(""))


@dataclass
class Spoiler:
    """What a proxy does to answers.

    Attributes:
        error_every: each so-many-th request to classify is answered with 500, and the counters say so; 0: none.
        seconds: that each request to classify takes longer.
        metrics: in place of /metrics, one after the other, and again from the start.
        probability: added to the first label's.
    """

    error_every: int = 0
    seconds: float = 0.0
    metrics: list[str] | None = None
    probability: float = 0.0
    n_classified: int = 0
    n_looked: int = 0


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        spoiler = self.server.spoiler
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {
            name: value for name, value in self.headers.items() if name.lower() in ("content-type", "authorization")
        }
        status, answer = 500, b"{}"
        is_error = False
        if self.path == "/v1/classify":
            spoiler.n_classified += 1
            time.sleep(spoiler.seconds)
            is_error = bool(spoiler.error_every) and spoiler.n_classified % spoiler.error_every == 0
        if not is_error:
            response = self.server.client.request(self.command, self.path, content=content, headers=headers)
            status, answer = response.status_code, response.content
        if self.path == "/metrics" and spoiler.metrics is not None:
            answer = spoiler.metrics[spoiler.n_looked % len(spoiler.metrics)].encode()
            spoiler.n_looked += 1
        if self.path == "/v1/classify" and spoiler.probability and not is_error:
            body = json.loads(answer)
            for prediction in body["predictions"]:
                prediction["probabilities"][prediction["label"]] += spoiler.probability
            answer = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_POST = do_DELETE = do_GET  # noqa: N815 - as the base class calls them

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    client: httpx.Client
    spoiler: Spoiler


@contextmanager
def spoil(url: str, spoiler: Spoiler) -> Iterator[str]:
    """The address of a proxy in front of a server, for the length of a block."""
    server = _Server(("127.0.0.1", 0), _Proxy)
    server.client, server.spoiler = httpx.Client(base_url=url, timeout=30), spoiler
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.client.close()
