"""The image: built, run, asked, stopped and started again. Skipped loudly where no container can be run."""

import json
import re
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from containers import (
    REPOSITORY,
    RunningContainer,
    build_anew,
    build_for_tests,
    call,
    copy_repository,
    find_engine,
    inspect_image,
    remove_image,
    run_container,
)
from tiny_text_bundle import write_bundle

from evergreen import __version__

pytestmark = pytest.mark.slow

PORT = 18400


@pytest.fixture(scope="module")
def source(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository as it is now, with bundles made for tests."""
    folder = copy_repository(tmp_path_factory.mktemp("source") / "evergreen")
    write_bundle(folder / "models/text")
    shutil.copytree(built / "bundle", folder / "models/video")
    return folder


@pytest.fixture(scope="module")
def image(source: Path) -> Iterator[str]:
    with build_for_tests("localhost/evergreen-test:latest", source, SOURCE="https://example.org/evergreen") as tag:
        yield tag


@pytest.fixture(scope="module")
def server(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningContainer]:
    with run_container(image, tmp_path_factory.mktemp("container") / "state", PORT) as container:
        yield container


def get_health_check(tag: str) -> list[str]:
    """The image's health check as a command; the engines disagree on where they show it."""
    image = inspect_image(tag)
    test = (image["Config"].get("Healthcheck") or image["Healthcheck"])["Test"]
    return test[1:] if test[0] == "CMD" else ["sh", "-c", test[1]]


def test_image_says_what_it_is(image: str, source: Path) -> None:
    config = inspect_image(image)["Config"]
    labels = config["Labels"]
    assert labels["org.opencontainers.image.revision"] == call("git", "rev-parse", "HEAD").strip()
    assert labels["org.opencontainers.image.source"] == "https://example.org/evergreen"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    bundle = json.loads((source / "models/text/bundle.json").read_text())
    assert labels["org.evergreen.model"] == bundle["digest"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--", "evergreen"]


def test_second_build_gives_the_same_layers(image: str, source: Path) -> None:
    engine, _ = find_engine()
    if engine == "docker":
        pytest.skip("docker keeps the times of files; docs/deployment.md has the builder that does not")
    again = f"{image}-again"
    try:
        build_anew(again, source)
        first, second = (inspect_image(tag)["RootFS"]["Layers"] for tag in (image, again))
    finally:
        remove_image(again)
    assert first == second


def test_nothing_of_training_or_compiling_is_inside(server: RunningContainer) -> None:
    script = "import importlib.util as u; print([n for n in {!r}.split() if u.find_spec(n)])"
    unwanted = "torch transformers diffusers mlflow dvc datasets pandas sklearn evidently pip setuptools"
    assert server.execute("python3", "-c", script.format(unwanted)).strip() == "[]"
    assert server.execute("sh", "-c", "command -v gcc cc make git pip || true").strip() == ""


def test_process_has_no_rights(server: RunningContainer) -> None:
    status = dict(re.findall(r"^(\w+):\t(.*)$", server.execute("cat", "/proc/1/status"), re.MULTILINE))
    assert set(status["Uid"].split()) == {"10001"}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for place in ("/", "/opt/evergreen", "/models/text"):
        with pytest.raises(AssertionError, match="Read-only file system"):
            server.execute("touch", f"{place}/file")


def test_health_check_passes(server: RunningContainer) -> None:
    server.execute(*get_health_check(server.image))
    with pytest.raises(AssertionError, match="refused"):
        server.execute("env", "EVERGREEN_PORT=9", *get_health_check(server.image))


def test_live_answers_and_feedback(server: RunningContainer) -> None:
    answer = (
        server.client.post("/v1/classify", json={"texts": ["a good flight", "a bad one"]}).raise_for_status().json()
    )
    first, second = answer["predictions"]
    assert first["probabilities"] != second["probabilities"]
    feedback = {"prediction_id": first["id"], "label": "positive", "source": "test"}
    server.client.post("/v1/feedback", json=feedback).raise_for_status()
    assert "evergreen_workers" in server.client.get("/metrics").text
    assert server.client.get("/").headers["Content-Type"].startswith("text/html")


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_batch_by_upload_and_by_command(server: RunningContainer, tmp_path: Path, suffix: str) -> None:
    table = pa.table({"text": [f"word{i}" for i in range(100)]})
    file = tmp_path / f"in.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, file)
    elif suffix == "csv":
        file.write_text("text\n" + "".join(f"{text}\n" for text in table["text"].to_pylist()))
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    with file.open("rb") as content:
        response = server.client.post("/v1/batches", files={"file": (file.name, content)}).raise_for_status()
    job = server.wait_for_job(response.headers["Location"], 120)
    assert (job["status"], job["summary"]["rows"]) == ("succeeded", 100), job
    result = server.client.get(job["results"][0]).content
    tmp_path.chmod(0o777)
    server.run("batch", f"/data/in.{suffix}", f"/data/out.{suffix}", run_flags=f"--volume {tmp_path}:/data")
    written = tmp_path / f"out.{suffix}"
    if suffix == "parquet":
        assert pq.read_table(written).num_rows == 100
    else:
        assert written.read_bytes() == result


def test_video_is_judged_with_its_evidence(server: RunningContainer, scene: Path) -> None:
    with scene.open("rb") as content:
        response = server.client.post("/v1/videos", files={"file": (scene.name, content)}).raise_for_status()
    job = server.wait_for_job(response.headers["Location"], 120)
    assert job["status"] == "succeeded", job
    contents = {path.rsplit("/", 1)[1]: server.client.get(path).content for path in job["results"]}
    assert json.loads(contents["result.json"])["answer"] in (0, 1)
    assert contents["timeline.png"].startswith(b"\x89PNG")
    assert contents["overlay.mp4"][4:8] == b"ftyp"


def test_wide_open_server_is_refused(image: str) -> None:
    engine, flags = find_engine()
    command = [
        engine,
        *flags.get("ENGINE_FLAGS", "").split(),
        "run",
        "--rm",
        *flags.get("RUN_FLAGS", "").split(),
        image,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "evergreen keys create NAME" in done.stderr


def test_log_outlives_the_container_and_a_stop_loses_no_request(image: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    with run_container(image, state, PORT + 1) as server:
        answers = [server.client.post("/v1/classify", json={"text": f"word{i}"}) for i in range(5)]
        statuses: Counter[int] = Counter()

        def ask() -> None:
            with httpx.Client(base_url=server.client.base_url, timeout=30) as client:
                for i in range(300):
                    try:
                        statuses[client.post("/v1/classify", json={"text": f"word{i}"}).status_code] += 1
                    except httpx.TransportError:  # it takes no more
                        return

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert server.stop() == 0
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    with run_container(image, state, PORT + 1) as server:
        feedback = {"prediction_id": answers[0].json()["predictions"][0]["id"], "label": "neutral", "source": "later"}
        server.client.post("/v1/feedback", json=feedback).raise_for_status()
        server.run("log", "export", "/state/log.jsonl")
    rows = [json.loads(line) for line in (state / "log.jsonl").read_text().splitlines()]
    assert len(rows) == 5 + statuses[200]


def test_update_behind_the_proxy_loses_no_request(image: str, tmp_path: Path) -> None:
    """The new container is ready before the old one stops; whoever asks through the proxy notices nothing."""
    if not shutil.which("haproxy"):
        pytest.skip("the update is NOT tested: no haproxy")
    ports, front = (PORT + 2, PORT + 3), PORT + 4
    config = (REPOSITORY / "docker/haproxy/haproxy.cfg").read_text()
    servers = "".join(f"  server s{port} 127.0.0.1:{port}\n" for port in ports)
    config = re.sub(r"  server-template .*\n", servers, config).replace("bind :8000", f"bind 127.0.0.1:{front}")
    config = config.replace(" resolvers docker init-addr none", "").replace(
        "log stdout format raw local0", "log 127.0.0.1 local0"
    )
    (tmp_path / "haproxy.cfg").write_text(config)
    state = tmp_path / "state"
    proxy = subprocess.Popen(["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")], stderr=subprocess.DEVNULL)
    results: list[int | str] = []
    stop = threading.Event()

    def ask(number: int) -> None:
        with httpx.Client(base_url=f"http://127.0.0.1:{front}", timeout=30) as client:
            while not stop.is_set():
                try:
                    results.append(client.post("/v1/classify", json={"text": f"word{number}"}).status_code)
                except httpx.HTTPError as error:
                    results.append(repr(error))

    try:
        with run_container(image, state, ports[0]) as old, run_container(image, state, ports[1]) as new:
            new.stop()
            time.sleep(2)
            threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
            for thread in threads:
                thread.start()
            time.sleep(1)
            new.start()
            time.sleep(2)
            before = len(results)
            assert old.stop() == 0
            time.sleep(2)
            stop.set()
            for thread in threads:
                thread.join()
            new.run("log", "export", "/state/log.jsonl")
    finally:
        stop.set()
        proxy.terminate()
        proxy.wait(10)
    assert Counter(results).keys() == {200}, Counter(results)
    assert 100 < before < len(results) - 100
    assert len((state / "log.jsonl").read_text().splitlines()) == len(results)
