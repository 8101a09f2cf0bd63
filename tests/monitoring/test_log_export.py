"""The prediction log exported to a bucket."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs
from logged import make_row
from moto.server import ThreadedMotoServer

from evergreen.monitoring.log import PredictionLog
from evergreen.monitoring.log_export import export
from evergreen.sources import SourceError


def test_export_to_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    environment = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    bucket = s3fs.S3FileSystem(client_kwargs={"endpoint_url": endpoint})
    bucket.mkdir("logs")
    log = PredictionLog.open(f"sqlite:///{tmp_path}/log.db")
    log.insert([make_row(), make_row()])
    try:
        assert export(log.stream(), "s3://logs/may/log.parquet") == 2
        with bucket.open("s3://logs/may/log.parquet") as file:
            assert pq.read_table(file)["seq"].to_pylist() == [1, 2]
        with pytest.raises(SourceError, match="s3://missing"):
            export(log.stream(), "s3://missing/log.csv")
    finally:
        moto.stop()
        log.close()
