"""The server as its callers see it: answers, feedback, refusals, drain, reload, lost workers."""

import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults import wait_until
from prometheus_client.parser import text_string_to_metric_families
from running import RunningServer, run_server
from tiny_text_bundle import LABELS, write_bundle

from evergreen.serving.security import create_key
from evergreen.text.runtime import Classifier

KEY, ENTRY = create_key("web")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "text")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[RunningServer]:
    """A server without keys."""
    with run_server(tmp_path_factory.mktemp("server"), bundle, EVERGREEN_BODY_TIMEOUT=1) as running:
        yield running


def refuse(response: httpx.Response, status: int) -> Any:
    """Check that a response is a problem of this status, and return it."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["detail"].endswith((".", "NAME", "KEY", "json")) or problem["errors"]
    return problem


def test_answer_is_the_runtimes_and_logged(server: RunningServer, bundle: Path) -> None:
    text = "@someone the word7 flight, see https://example.org"
    answer = server.classify(text, id="mine-1")
    expected = Classifier.load(bundle, num_threads=1)(text)
    assert answer["label"] == expected.label
    assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    (row,) = [item.prediction for item in server.read_log() if item.prediction.id == answer["id"]]
    assert (row.caller_id, row.label, row.client, row.source) == ("mine-1", answer["label"], "anonymous", "live")
    assert row.text == "@user the word7 flight, see http"


def test_several_texts_keep_their_order(server: RunningServer, bundle: Path) -> None:
    texts = [f"word{i} " * (1 + i % 7) for i in range(60)]
    response = server.client.post("/v1/classify", json={"texts": texts, "ids": [f"n{i}" for i in range(60)]})
    predictions = response.raise_for_status().json()["predictions"]
    expected = Classifier.load(bundle).predict(texts)
    assert [answer["label"] for answer in predictions] == [prediction.label for prediction in expected]
    assert [answer["caller_id"] for answer in predictions] == [f"n{i}" for i in range(60)]
    logged = {item.prediction.id for item in server.read_log()}
    assert {answer["id"] for answer in predictions} <= logged


def test_concurrent_callers_get_their_own_answers(server: RunningServer, bundle: Path) -> None:
    texts = [f"word{i}" for i in range(100)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(server.classify, texts))
    expected = Classifier.load(bundle).predict(texts)
    assert [answer["label"] for answer in answers] == [prediction.label for prediction in expected]
    assert len({answer["id"] for answer in answers}) == len(texts)


@pytest.mark.parametrize(
    ("body", "status", "where"),
    [
        (b"{", 400, None),
        (b'{"text": "\xff"}', 400, None),
        (b'{"text": "\\ud800"}', 400, None),
        (b"[" * 100_000, 400, None),
        (b'{"text": 5}', 422, "/text"),
        (b'{"text": ""}', 422, "/text"),
        (b'{"texts": []}', 422, "/texts"),
        (b'{"texts": ["a", null]}', 422, "/texts/1"),
        (b"{}", 422, ""),
        (b'{"text": "a", "texts": ["b"]}', 422, ""),
        (b'{"text": "a", "colour": 1}', 422, "/colour"),
        (b'{"texts": ["a"], "ids": ["1", "2"]}', 422, ""),
        (b'{"text": "a", "id": "\\u0000"}', 422, "/id"),
        (b'{"text": 1e400}', 422, "/text"),
        (b'{"text": ' + b"9" * 5000 + b"}", 400, None),
        (json.dumps({"text": "a" * 20_001}).encode(), 422, "/text"),
        (json.dumps({"texts": ["a"] * 65}).encode(), 422, "/texts"),
        (b'{"text": "' + b"a" * (2 << 20) + b'"}', 413, None),
    ],
)
def test_wrong_bodies_are_refused_by_field(server: RunningServer, body: bytes, status: int, where: str | None) -> None:
    headers = {"Content-Type": "application/json"}
    problem = refuse(server.client.post("/v1/classify", content=body, headers=headers), status)
    if where is not None:
        assert where in [error["pointer"] for error in problem["errors"]]


def test_other_media_types_methods_and_paths_are_refused(server: RunningServer) -> None:
    refuse(server.client.post("/v1/classify", content=b"hello", headers={"Content-Type": "text/plain"}), 415)
    refuse(server.client.get("/v1/classify"), 405)
    refuse(server.client.get("/v1/nothing"), 404)
    refuse(server.client.get("/page/../app.py"), 404)
    refuse(server.client.get("/page/%2e%2e/app.py"), 404)


def test_feedback_is_stored_once(server: RunningServer) -> None:
    answer = server.classify("word3", id="twice")
    feedback = {"prediction_id": answer["id"], "label": "neutral", "source": "crowd"}
    for _ in range(2):
        assert server.client.post("/v1/feedback", json=feedback).raise_for_status().json()["label"] == "neutral"
    server.client.post("/v1/feedback", json={"caller_id": "twice", "label": "positive"}).raise_for_status()
    (row,) = [item for item in server.read_log() if item.prediction.id == answer["id"]]
    assert row.feedback is not None
    assert (row.feedback.label, row.feedback.source) == ("positive", "user")


def test_unknown_ids_and_labels_are_refused_by_name(server: RunningServer) -> None:
    answer = server.classify()
    problem = refuse(server.client.post("/v1/feedback", json={"prediction_id": "no-such", "label": "neutral"}), 404)
    assert "no-such" in problem["detail"]
    feedback = {"prediction_id": answer["id"], "label": "angry"}
    problem = refuse(server.client.post("/v1/feedback", json=feedback), 422)
    assert "angry" in problem["detail"]
    assert all(label in problem["detail"] for label in LABELS)


def test_model_health_and_metrics(server: RunningServer) -> None:
    server.classify()
    model = server.client.get("/v1/model").raise_for_status().json()
    assert model["text"]["labels"] == LABELS
    assert model["video"] is None
    assert server.client.get("/health").json()["status"] == "ok"
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(server.client.get("/metrics").text)
        for sample in family.samples
    }
    assert samples["evergreen_requests_total", "/v1/classify", "200", "POST"] >= 1
    assert samples["evergreen_workers",] == 2
    assert samples["evergreen_log_available",] == 1
    assert not any("no-such" in " ".join(name) for name in samples)


def test_answers_carry_security_headers_and_no_cors(server: RunningServer) -> None:
    response = server.client.get("/", headers={"Origin": "https://elsewhere.example"})
    assert "default-src 'self'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in response.headers


def test_slow_clients_are_told_and_hold_nothing(server: RunningServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{")
        server.classify()
        slow.settimeout(10)
        assert b" 408 " in slow.recv(4096).splitlines()[0]


def test_keys_limits_and_logs_without_secrets(tmp_path: Path, bundle: Path) -> None:
    settings = {"EVERGREEN_API_KEYS": ENTRY, "EVERGREEN_RATE_LIMIT": "5/minute", "EVERGREEN_LOG_LEVEL": "info"}
    with run_server(tmp_path, bundle, **settings) as server:
        problem = refuse(server.client.post("/v1/classify", json={"text": "private words"}), 401)
        assert "Bearer" in problem["detail"]
        for wrong in ("Bearer wrong", f"Basic {KEY}", "Bearer", f"Bearer {KEY}x"):
            refuse(server.client.get("/v1/model", headers={"Authorization": wrong}), 401)
        server.client.headers["Authorization"] = f"Bearer {KEY}"
        for _ in range(5):
            server.classify("private words")
        response = server.client.post("/v1/classify", json={"text": "private words"})
        refuse(response, 429)
        assert 0 < int(response.headers["retry-after"]) <= 60
        assert {item.prediction.client for item in server.read_log()} == {"web"}
        assert server.client.get("/health").status_code == server.client.get("/metrics").status_code == 200
        output = server.read_output()
        assert KEY not in output
        assert "private words" not in output


def test_open_server_without_keys_is_refused(tmp_path: Path, bundle: Path) -> None:
    server = RunningServer(tmp_path, bundle, EVERGREEN_HOST="0.0.0.0").start(wait=False)  # noqa: S104
    assert server.process.wait(30) == 2
    assert "evergreen keys create" in server.read_output()


def test_stop_answers_open_requests(tmp_path: Path, bundle: Path) -> None:
    """A client that goes elsewhere once it is told to, as a balancer does, loses nothing."""
    with run_server(tmp_path, bundle, EVERGREEN_DRAIN_SECONDS=1) as server:
        answered: list[str] = []
        lost: list[str] = []

        def call() -> None:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                is_told = False
                while not is_told:
                    try:
                        response = client.post("/v1/classify", json={"text": "word5"})
                    except httpx.HTTPError as error:
                        lost.append(repr(error))
                        return
                    assert response.status_code == 200, response.text
                    answered.append(response.json()["predictions"][0]["id"])
                    is_told = response.headers.get("connection") == "close"

        callers = [threading.Thread(target=call) for _ in range(8)]
        for caller in callers:
            caller.start()
        wait_until(lambda: len(answered) > 50)
        assert server.stop() == 0
        for caller in callers:
            caller.join(10)
        assert not lost
        ids = [item.prediction.id for item in server.read_log()]
        assert sorted(ids) == sorted(answered)


def test_lost_worker_costs_no_request(tmp_path: Path, bundle: Path) -> None:
    with run_server(tmp_path, bundle) as server, ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(server.classify, f"word{i % 150}") for i in range(1200)]
        for _ in range(3):
            time.sleep(0.2)
            server.wait_for_worker().kill()
        answers = [future.result() for future in pending]
        assert len({answer["id"] for answer in answers}) == 1200
        end = time.monotonic() + 20
        while len(server.workers()) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        assert len(server.workers()) == 2


def test_it_stops_without_a_traceback_where_its_threads_are_slow(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOW_THREADS)
    with run_server(tmp_path, bundle, PYTHONPATH=tmp_path) as server:
        server.classify()
    assert (tmp_path / "slowed").exists()


SLOW_THREADS = """\
import atexit, multiprocessing.connection, pathlib, threading, time

wait = multiprocessing.connection.wait

def wait_long(sentinels, timeout=None):
    ready = wait(sentinels, timeout)
    if timeout is None and threading.current_thread() is not threading.main_thread():
        pathlib.Path(__file__).with_name("slowed").touch()
        time.sleep(1)
    return ready

multiprocessing.connection.wait = wait_long
atexit.register(time.sleep, 2)
"""
"""Start-up code after which a thread sees a second late that a process has ended, and the main one ends last."""


@pytest.mark.parametrize("step", ["_init_manager", "launch_inference_worker", "verify_worker_status", "_start_server"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_stopped_at_any_step_of_its_start(
    tmp_path: Path, bundle: Path, step: str, number: signal.Signals
) -> None:
    (tmp_path / "sitecustomize.py").write_text(STOPPED_AFTER.format(step=step, number=int(number)))
    server = RunningServer(tmp_path, bundle, PYTHONPATH=tmp_path).start(wait=False)
    try:
        assert server.process.wait(60) == 0, server.read_output()
    finally:
        left = [member for member in server.family() if member.is_running()]
        for member in left:
            member.kill()
    assert (tmp_path / "stopped").exists()
    assert not left
    assert "Traceback" not in server.read_output()


STOPPED_AFTER = """\
import os, pathlib
from litserve import LitServer

run = LitServer.{step}

def run_and_stop(*args, **kwargs):
    result = run(*args, **kwargs)
    pathlib.Path(__file__).with_name("stopped").touch()
    os.kill(os.getpid(), {number})
    return result

LitServer.{step} = run_and_stop
"""
"""Start-up code after which a server gets a signal once LitServe has done one step of its start."""


def test_killed_main_process_leaves_nothing_running(tmp_path: Path, bundle: Path) -> None:
    server = RunningServer(tmp_path, bundle).start()
    server.classify()
    server.kill()  # asserts that its family ends


def test_new_bundle_is_taken_up_and_a_damaged_one_refused(tmp_path: Path, bundle: Path) -> None:
    folder = write_bundle(tmp_path / "models" / "text", seed=1)
    with run_server(tmp_path, folder) as server:
        before = server.classify("word9")["probabilities"]
        (folder / "model.onnx").write_bytes(b"not a model")
        server.process.send_signal(signal.SIGHUP)
        wait_for_output(server, "the new bundle is refused")
        assert server.classify("word9")["probabilities"] == before
        server.wait_for_worker().kill()  # its successor loads the old one as well
        assert server.classify("word9")["probabilities"] == before
        write_bundle(folder, seed=2)
        server.process.send_signal(signal.SIGHUP)
        wait_for_output(server, "a new bundle is served")
        assert server.classify("word9")["probabilities"] != before
        assert server.classify("word9")["probabilities"] == pytest.approx(
            Classifier.load(folder)("word9").probabilities, abs=1e-5
        )


def wait_for_output(server: RunningServer, words: str) -> None:
    """Wait until the server has written something."""
    end = time.monotonic() + 20
    while words not in server.read_output():
        assert time.monotonic() < end, server.read_output()
        time.sleep(0.05)


def test_damaged_bundle_at_start_is_one_error(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "text")
    (folder / "model.onnx").write_bytes(b"not a model")
    server = RunningServer(tmp_path, folder).start(wait=False)
    assert server.process.wait(30) == 1
    assert "changed since the bundle was made" in server.read_output()
    assert "Traceback" not in server.read_output()
