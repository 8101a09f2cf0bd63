import json
import sys

import pytest
from tiny_text_bundle import write_bundle

from evergreen.serving import batch_ray
from evergreen.serving.batch import run_batch
from evergreen.serving.batch_parts import BatchUsageError


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "in.jsonl"
    lines = [json.dumps({"id": i, "text": f"word{i % 200} good word{i % 7} the flight"}) for i in range(800)]
    lines[110] = "{broken"
    path.write_text("\n".join(lines))
    return path


def test_a_missing_package_is_named(bundle, source, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(BatchUsageError, match=r"pip install 'evergreen\[scale\]'"):
        run_batch(str(source), str(tmp_path / "out.csv"), bundle, engine="ray")


@pytest.mark.slow
def test_two_workers_write_the_same_bytes(bundle, source, tmp_path, monkeypatch):
    import ray

    workers = tmp_path / "workers"
    workers.mkdir()

    class Spy(batch_ray._RayPredictor):
        """Leaves the number of its process, and takes long enough for the other to have its share."""

        def __call__(self, batch):
            import os
            import time

            (workers / str(os.getpid())).touch()
            time.sleep(0.05)
            return super().__call__(batch)

    monkeypatch.setattr(batch_ray, "_RayPredictor", Spy)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for suffix in ("parquet",):
            target, local = tmp_path / f"out.{suffix}", tmp_path / f"local.{suffix}"
            firsts = []

            def stop(numbers, *_, firsts=firsts):
                firsts.append(numbers[0])
                if numbers[0] == 200:
                    raise KeyboardInterrupt

            with pytest.raises(Exception, match="Run the same command again"):
                run_batch(str(source), str(target), bundle, processes=2, chunk_rows=20, engine="ray", on_chunk=stop)
            result = run_batch(str(source), str(target), bundle, processes=2, chunk_rows=20, engine="ray")
            run_batch(str(source), str(local), bundle, processes=1, chunk_rows=20)
            assert firsts == [*range(0, 201, 20)]
            assert result.resumed_rows == 200
            assert target.read_bytes() == local.read_bytes()
            rejects = [path.with_name(f"{path.name}.rejects.jsonl").read_bytes() for path in (target, local)]
            assert rejects[0] == rejects[1] != b""
        assert len(list(workers.iterdir())) >= 2
        assert ray.is_initialized()
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_unavailable_cluster(bundle, source, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with pytest.raises(BatchUsageError, match=r"127\.0\.0\.1:1: unavailable"):
        run_batch(str(source), str(tmp_path / "o.csv"), bundle, engine="ray", ray_address="127.0.0.1:1")
