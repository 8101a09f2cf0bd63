"""Two servers with one state folder, as while a new one takes over from an old one."""

import threading
from pathlib import Path

import httpx
import pytest
from faults import wait_until
from running import RunningServer
from tiny_text_bundle import write_bundle


@pytest.mark.slow
def test_second_server_takes_over_live_texts_at_once_and_jobs_in_the_end(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "text")
    old = RunningServer(tmp_path, bundle, EVERGREEN_DRAIN_SECONDS=1).start()
    new = RunningServer(tmp_path, bundle)
    rows = 30_000
    content = b"text\n" + b"".join(b"word%d\n" % (i % 150) for i in range(rows))
    try:
        old.classify("before")
        path = old.client.post("/v1/batches", files={"file": ("many.csv", content)}).headers["Location"]
        new.start()
        for refused in (
            new.client.get(path),
            new.client.get("/v1/batches"),
            new.client.post("/v1/batches", files={"file": ("a.csv", b"text\na\n")}),
        ):
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "2"
            assert "Another server" in refused.json()["detail"]
        asking = threading.Thread(target=lambda: [new.classify(f"meanwhile {i}") for i in range(50)])
        asking.start()
        assert old.client.get(path).json()["status"] in ("queued", "running")
        old.stop()
        asking.join()
        new.client = httpx.Client(base_url=new.url, timeout=30)
        wait_until(lambda: new.client.get(path).status_code == 200)
        job = new.wait_for_job(path)
        assert job["status"] == "succeeded", job
        logged = [item.prediction for item in new.read_log()]
        ids = sorted(row.id for row in logged if row.id.startswith(job["id"]))
        assert ids == sorted(f"{job['id']}-{row}" for row in range(rows))
        assert len(logged) == rows + 1 + 50
        assert len(list((tmp_path / "state/serving/bundles").glob("*.lock"))) == 2
    finally:
        for server in (old, new):
            if server.process.poll() is None:
                server.stop()
    third = RunningServer(tmp_path, bundle).start()
    try:
        folders = [path for path in (tmp_path / "state/serving/bundles").iterdir() if path.is_dir()]
        assert len(folders) == 1  # those of servers that have gone are removed
    finally:
        third.stop()
