"""Batches and videos as jobs: their results, their rows in the log, and all that can go wrong with them."""

import csv
import io
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import RunningServer, run_server
from tiny_text_bundle import write_bundle

from evergreen.serving.batch import run_batch
from evergreen.serving.jobs import _clean_name
from evergreen.serving.security import create_key

KEY, ENTRY = create_key("web")
OTHER_KEY, OTHER_ENTRY = create_key("other")
LIMIT = 1 << 20
MANY = b"text\n" + b"a\n" * 250_000
"""Rows that take seconds."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "text")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[RunningServer]:
    """A server with two keys; the client has the first."""
    settings = {
        "EVERGREEN_API_KEYS": f"{ENTRY},{OTHER_ENTRY}",
        "EVERGREEN_MAX_UPLOAD_BYTES": LIMIT,
        "EVERGREEN_MAX_JOBS": 3,
        "EVERGREEN_LOG_LEVEL": "info",
    }
    with run_server(tmp_path_factory.mktemp("server"), bundle, **settings) as running:
        running.client.headers["Authorization"] = f"Bearer {KEY}"
        yield running
        check_secrets(running)


def check_secrets(server: RunningServer) -> None:
    """No key, text or traceback in what the server has written."""
    output = server.read_output()
    for secret in (KEY, OTHER_KEY, "word7 private", "Traceback"):
        assert secret not in output


def send(server: RunningServer, name: str, content: bytes, path: str = "/v1/batches", **more: Any) -> httpx.Response:
    return server.client.post(path, files={"file": (name, content)}, **more)


def submit(server: RunningServer, name: str, content: bytes, path: str = "/v1/batches") -> str:
    """Send a file and return the job's path."""
    response = send(server, name, content, path)
    assert response.status_code == 202, response.text
    job = response.json()
    assert response.headers["location"] == f"{path}/{job['id']}"
    assert (job["status"], job["progress"], job["results"]) == ("queued", 0, [])
    assert str(server.folder) not in response.text
    return str(response.headers["location"])


def refuse(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    return response.json()


def wait_for(condition: Any, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def get(server: RunningServer, path: str) -> Any:
    return server.client.get(path).raise_for_status().json()


def find_processes(path: str) -> list[psutil.Process]:
    """The processes of a job: the one that has its id, and its children."""
    job_id = path.rsplit("/", 1)[1]
    family = []
    for process in psutil.process_iter(["cmdline", "status"]):
        if job_id in " ".join(process.info["cmdline"] or []) and process.info["status"] != "zombie":
            family += [process, *process.children(recursive=True)]
    return family


def make_rows(count: int = 3000) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"text": f"word{i % 50} private, see @someone", "n": i} for i in range(count)]
    rows[5]["text"] = ""
    return rows


def encode(rows: list[dict[str, Any]], suffix: str) -> bytes:
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == ".csv":
        stream = io.StringIO()
        writer = csv.DictWriter(stream, ["text", "n"])
        writer.writeheader()
        writer.writerows(rows)
        return stream.getvalue().encode()
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_result_is_the_batchs_and_every_row_is_logged_once(
    server: RunningServer, bundle: Path, tmp_path: Path, suffix: str
) -> None:
    content = encode(make_rows(), suffix)
    path = submit(server, f"rows{suffix.upper()}", content)
    job = server.wait_for_job(path)
    assert (job["status"], job["progress"], job["detail"]) == ("succeeded", 1, None), job
    assert (job["summary"]["rows"], job["summary"]["predicted"], job["summary"]["rejected"]) == (3000, 2999, 1)
    source, target = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    source.write_bytes(content)
    run_batch(str(source), str(target), bundle, processes=1)
    names = [f"predictions{suffix}", f"predictions{suffix}.rejects.jsonl"]
    assert job["results"] == [f"{path}/{name}" for name in names]
    assert [server.client.get(result).content for result in job["results"]] == [
        target.read_bytes(),
        target.with_name(f"{target.name}.rejects.jsonl").read_bytes(),
    ]
    job_id = job["id"]
    logged = [i.prediction for i in server.read_log() if i.prediction.id.startswith(job_id)]
    assert sorted(row.id for row in logged) == sorted(f"{job_id}-{row}" for row in range(3000) if row != 5)
    assert {(row.source, row.client, row.kind) for row in logged} == {("batch", "web", "text")}
    feedback = {"prediction_id": f"{job_id}-7", "label": "neutral"}
    server.client.post("/v1/feedback", json=feedback).raise_for_status()
    folder = server.folder / "state/serving/jobs" / job_id
    assert {file.name for file in folder.iterdir()} <= {"job.json", "progress.json", "outcome.json", "results"}


def test_results_wait_for_the_job_and_have_their_names(server: RunningServer) -> None:
    path = submit(server, "many.csv", MANY)
    refuse(server.client.get(f"{path}/predictions.csv"), 409)
    wait_for(lambda: 0 < get(server, path)["progress"] < 1)
    assert get(server, path)["status"] == "running"
    start = time.monotonic()
    server.classify()
    assert time.monotonic() - start < 1
    server.client.delete(path).raise_for_status()
    done = submit(server, "few.csv", b"text\na\n")
    server.wait_for_job(done)
    for name in ("job.json", "..%2fjob.json", "%2e%2e%2f%2e%2e%2fx", "a%00b", "predictions.jsonl"):
        assert server.client.get(f"{done}/{name}").status_code == 404
    assert server.client.get(f"{done}/predictions.csv").headers["content-disposition"].endswith('"predictions.csv"')


def test_cancel_ends_queued_and_running_jobs(server: RunningServer) -> None:
    running, queued = submit(server, "many.csv", MANY), submit(server, "more.csv", MANY)
    wait_for(lambda: find_processes(running))
    for path in (queued, running):
        assert server.client.delete(path).status_code == 204
        assert get(server, path)["status"] == "canceled"
    wait_for(lambda: not find_processes(running))
    assert not find_processes(queued)
    for path in (queued, running):
        folder = server.folder / "state/serving/jobs" / path.rsplit("/", 1)[1]
        wait_for(lambda folder=folder: not (folder / "upload").exists())
        assert server.client.delete(path).status_code == 204
        refuse(server.client.get(path), 404)
        assert not folder.exists()
    job = server.wait_for_job(submit(server, "next.csv", b"text\na\n"))
    assert job["status"] == "succeeded"


def test_cancel_twice_at_once_leaves_the_queue_working(server: RunningServer) -> None:
    for _ in range(8):
        path = submit(server, "many.csv", MANY[:2000])
        for _ in range(2):
            server.client.delete(path)
    assert server.wait_for_job(submit(server, "next.csv", b"text\na\n"))["status"] == "succeeded"


def test_jobs_are_their_clients_alone(server: RunningServer) -> None:
    path = submit(server, "mine.csv", b"text\na\n")
    server.wait_for_job(path)
    other = {"Authorization": f"Bearer {OTHER_KEY}"}
    for address in (path, f"{path}/predictions.csv"):
        refuse(server.client.get(address, headers=other), 404)
    refuse(server.client.delete(path, headers=other), 404)
    refuse(server.client.get(path.replace("batches", "videos")), 404)
    assert server.client.get("/v1/batches", headers=other).json() == []
    assert path.rsplit("/", 1)[1] == server.client.get("/v1/batches").json()[0]["id"]
    refuse(httpx.get(f"{server.url}{path}"), 401)
    assert server.client.delete(path).status_code == 204
    refuse(server.client.get(path), 404)


def test_too_many_jobs_are_refused(server: RunningServer) -> None:
    paths = [submit(server, "many.csv", MANY) for _ in range(3)]
    response = send(server, "more.csv", b"text\na\n")
    refuse(response, 429)
    assert response.headers["retry-after"]
    for path in reversed(paths):
        server.client.delete(path).raise_for_status()
    assert server.wait_for_job(submit(server, "next.csv", b"text\na\n"))["status"] == "succeeded"


def test_wrong_uploads_are_refused(server: RunningServer) -> None:
    for name in ("rows.txt", "rows", ".csv", "..csv", "rows.csv.exe", "rows.mp4"):
        refuse(send(server, name, b"text\na\n"), 415)
    refuse(send(server, "empty.csv", b""), 422)
    refuse(send(server, "large.csv", b"text\n" + b"a\n" * LIMIT), 413)
    refuse(server.client.post("/v1/batches", files={"other": ("a.csv", b"text\na\n")}), 422)
    refuse(server.client.post("/v1/batches", files={"file": (None, b"text\na\n")}), 422)
    refuse(server.client.post("/v1/batches", files=[("file", ("a.csv", b"text\na\n"))] * 2), 400)
    refuse(server.client.post("/v1/batches", json={"file": "a"}), 415)
    refuse(server.client.post("/v1/batches", data={"file": "a"}), 415)
    refuse(send(server, "a.mp4", b"a", "/v1/videos"), 404)
    assert not [job for job in server.client.get("/v1/batches").json() if job["status"] == "queued"]
    left = {folder.name for folder in (server.folder / "state/serving/jobs").iterdir()}
    assert left == {job["id"] for job in server.client.get("/v1/batches").json()}


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("multipart/form-data", b"--x"),
        ("multipart/form-data; boundary=", b"--\r\n"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"nothing of a form"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\ncut'),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; filename="a.csv"\r\n\r\na\r\n--x--\r\n'),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 20_000 + b"\r\na\r\n--x--\r\n"),
        ("multipart/form-data; boundary=" + "x" * 5000, b"--x\r\n\r\n"),
        ("multipart/form-data; boundary=x; charset=undefined", b'--x\r\nContent-Disposition: form-data; name="f\xff"\r\n\r\na\r\n--x--\r\n'),
        ("multipart/form-data; boundary=x; charset=unicode_escape", b'--x\r\nContent-Disposition: form-data; name="\\ud800"\r\n\r\n\\\r\n--x--\r\n'),
    ],
)  # fmt: skip
def test_broken_forms_are_refused(server: RunningServer, media_type: str, body: bytes) -> None:
    response = server.client.post("/v1/batches", content=body, headers={"Content-Type": media_type})
    assert response.status_code in (400, 422)
    refuse(response, response.status_code)


def test_client_that_leaves_amid_its_upload_is_no_error(server: RunningServer) -> None:
    before = server.read_output()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            head = f"POST /v1/batches HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 900\r\n"
            sock.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
    server.classify()
    time.sleep(0.2)
    assert "error" not in server.read_output().removeprefix(before)


NAMES = {
    "../../x.csv": "x.csv",
    "..\\x.csv": "x.csv",
    "/etc/passwd.csv": "passwd.csv",
    "a\x00b.csv": "a_b.csv",
    "y" * 300 + ".csv": "y" * 56 + ".csv",
    "ürgö ё 日本.csv": "ürgö ё 日本.csv",
    "...hidden.csv": "hidden.csv",
    "-rf.csv": "rf.csv",
    "a.csv/": "a.csv",
    "C:\\Users\\me\\a.csv": "a.csv",
    "a\r\nb: c.csv": "a__b_ c.csv",
    '"; rm -rf ~; ".csv': None,
    "predictions.csv": "predictions.csv",
    "job.json.csv": "job.json.csv",
    "\ud800.csv": "_.csv",
}


@pytest.mark.parametrize(("name", "cleaned"), NAMES.items(), ids=range(len(NAMES)))
def test_cleaned_names_are_one_part_of_a_path(name: str, cleaned: str | None) -> None:
    clean = _clean_name(name)
    assert cleaned in (clean, None)
    assert Path(clean).name == clean
    assert len(clean.encode()) < 255


def test_names_never_leave_the_jobs_folder(server: RunningServer) -> None:
    folder = server.folder / "state/serving/jobs"
    head = 'Content-Disposition: form-data; name="file"; filename="'
    for name in ("../../x.csv", "..\\\\x.csv", "/etc/passwd.csv", "a\x00b.csv", "ü.csv", "z" * 3000 + ".csv", "a.csv/"):
        body = b"--x\r\n" + f'{head}{name}"\r\n\r\n'.encode() + b"text\na\n\r\n--x--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        response = server.client.post("/v1/batches", content=body, headers=headers)
        if response.status_code != 202:
            refuse(response, 400)
            continue
        assert "/" not in response.json()["file"]
        stored = [file for file in folder.rglob("*.csv") if file.parent.name == "upload"]
        assert response.json()["file"] in {file.name for file in stored}
        server.client.delete(response.headers["location"]).raise_for_status()
    outside = [file for file in server.folder.rglob("*.csv") if folder not in file.parents]
    assert outside == []
    assert not Path("/etc/passwd.csv").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("no-text.csv", b"id,words\n1,a\n", "no column text"),
        ("not.parquet", b"PAR1 nothing of it", "not a Parquet file"),
        ("cut.parquet", encode(make_rows(50), ".parquet")[:-200], "not a Parquet file"),
        ("empty-line.csv", b"\n", "no line of column names"),
    ],
)
def test_useless_files_fail_their_job_with_a_reason(
    server: RunningServer, name: str, content: bytes, words: str
) -> None:
    job = server.wait_for_job(submit(server, name, content))
    assert job["status"] == "failed"
    assert words in job["detail"]
    assert str(server.folder) not in job["detail"]
    assert job["id"] not in job["detail"]
    assert job["results"] == []


def test_killed_process_fails_its_job(server: RunningServer) -> None:
    path = submit(server, "many.csv", MANY)
    wait_for(lambda: find_processes(path))
    find_processes(path)[0].kill()
    job = server.wait_for_job(path)
    assert job["status"] == "failed"
    assert "SIGKILL" in job["detail"]
    assert server.wait_for_job(submit(server, "next.csv", b"text\na\n"))["status"] == "succeeded"


@pytest.mark.slow
def test_job_survives_a_killed_server_and_a_torn_file(tmp_path: Path, bundle: Path) -> None:
    rows = 40_000
    server = RunningServer(tmp_path, bundle).start()
    try:
        done = submit(server, "done.csv", b"text\na\n")
        server.wait_for_job(done)
        torn = submit(server, "torn.csv", b"text\na\n")
        server.wait_for_job(torn)
        path = submit(server, "many.csv", b"text\n" + b"".join(b"word%d\n" % (i % 150) for i in range(rows)))
        wait_for(lambda: get(server, path)["progress"] > 0)
        waiting = submit(server, "waiting.csv", b"text\nb\n")
        server.kill()
        wait_for(lambda: not find_processes(path))
        file = tmp_path / "state/serving/jobs" / torn.rsplit("/", 1)[1] / "job.json"
        file.write_bytes(file.read_bytes()[:40])
        (tmp_path / "state/serving/jobs/a-file").write_text("left by someone")
        logged = len(server.read_log())
        assert 2 < logged < rows
        server.start()
        assert get(server, done)["status"] == "succeeded"
        refuse(server.client.get(torn), 404)
        job = server.wait_for_job(path)
        assert job["status"] == "succeeded", job
        assert job["summary"]["rows"] == rows
        lines = server.client.get(job["results"][0]).text.splitlines()
        assert len(lines) == rows + 1
        assert server.wait_for_job(waiting)["status"] == "succeeded"
        ids = [item.prediction.id for item in server.read_log() if item.prediction.id.startswith(job["id"])]
        assert sorted(ids) == sorted(f"{job['id']}-{row}" for row in range(rows))
    finally:
        server.stop()


@pytest.mark.slow
def test_bombs_and_endless_jobs_fail_alone(tmp_path: Path, bundle: Path) -> None:
    settings = {"EVERGREEN_MAX_JOB_MEMORY_MB": 1024, "EVERGREEN_JOB_TIMEOUT": 8}
    with run_server(tmp_path, bundle, **settings) as server:
        for n_values, length in ((1000, 8 << 20), (300_000_000, 1)):
            path = submit(server, "bomb.parquet", write_bomb(n_values, length))
            start = time.monotonic()
            while (job := get(server, path))["status"] in ("queued", "running"):
                server.classify()
                assert time.monotonic() - start < 30
                assert sum(p.memory_info().rss for p in find_processes(path)) < 2.5 * (1 << 30)
                time.sleep(0.1)
            assert job["status"] == "failed"
            assert "1024 MB" in job["detail"] or "8 s" in job["detail"], job
            assert not find_processes(path)
        assert server.wait_for_job(submit(server, "next.csv", b"text\na\n"))["status"] == "succeeded"
        check_secrets(server)


def write_bomb(n_values: int, length: int) -> bytes:
    """A small Parquet file of many equal strings, in one row group."""
    column = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), n_values), ["a" * length])
    buffer = io.BytesIO()
    options = {"compression": "zstd", "row_group_size": n_values, "dictionary_pagesize_limit": 1 << 30}
    pq.write_table(pa.table({"text": column}), buffer, **options)
    content = buffer.getvalue()
    assert len(content) < 1 << 20
    return content


def test_bug_of_a_job_shows_no_text() -> None:
    from evergreen.serving.job_process import JobSpec, _explain

    spec = JobSpec(
        kind="batch",
        id="1" * 32,
        client="web",
        input=Path("/state/jobs/1/upload/a.csv"),
        results=Path("/state/jobs/1/results"),
        rows=Path("/state/jobs/1/log"),
        bundle=Path("/state/jobs/1/bundle"),
        max_memory_mb=512,
        server=1,
    )
    detail = _explain(KeyError("word7 private"), spec)
    assert "private" not in detail
    assert "KeyError" in detail
    assert "512 MB" in _explain(MemoryError(), spec)


@pytest.mark.slow
def test_video_job_judges_explains_and_logs(tmp_path: Path, bundle: Path, built: Path) -> None:
    from footage import add_intruder, draw_scene, write_video

    video = write_video(tmp_path / "made.mp4", add_intruder(draw_scene(150, 30), 20, 40)).read_bytes()
    with run_server(tmp_path / "server", bundle, built / "bundle") as server:
        path = submit(server, "street walk.mp4", video, "/v1/videos")
        refused = submit(server, "no-video.mp4", b"nothing of a video" * 99, "/v1/videos")
        slowest = 0.0
        seen = set()
        while (job := get(server, path))["status"] in ("queued", "running"):
            start = time.monotonic()
            server.classify()
            slowest = max(slowest, time.monotonic() - start)
            seen.add(job["progress"])
            time.sleep(0.05)  # the job runs on what is left of the processors
        assert slowest < 1
        assert job["status"] == "succeeded", job
        assert len(seen) > 1
        summary = job["summary"]
        assert (summary["answer"], summary["prediction_id"], summary["n_frames"]) == (1, job["id"], 150)
        assert summary["score"] >= summary["threshold"]
        assert summary["ranges"][0]["first_frame"] >= 15
        assert [name.rsplit("/", 1)[1] for name in job["results"]] == ["overlay.mp4", "result.json", "timeline.png"]
        contents = [server.client.get(result).raise_for_status() for result in job["results"]]
        assert [response.headers["content-type"] for response in contents] == [
            "video/mp4",
            "application/json",
            "image/png",
        ]
        assert contents[1].json()["source"] == "street walk.mp4"
        assert str(server.folder) not in contents[1].text
        assert contents[2].content.startswith(b"\x89PNG")
        job = server.wait_for_job(refused)
        assert job["status"] == "failed"
        assert "no-video.mp4" in job["detail"] or "the file" in job["detail"]
        assert str(server.folder) not in job["detail"]
        (row,) = [item.prediction for item in server.read_log() if item.prediction.id == summary["prediction_id"]]
        assert (row.kind, row.label, row.source, row.text) == ("video", "1", "video", None)
        feedback = {"prediction_id": row.id, "label": "0"}
        server.client.post("/v1/feedback", json=feedback).raise_for_status()
        refuse(server.client.post("/v1/feedback", json=feedback | {"label": "neutral"}), 422)
        refuse(send(server, "rows.csv", b"text\na\n", "/v1/videos"), 415)
        check_secrets(server)
