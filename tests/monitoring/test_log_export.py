"""The prediction log exported to a bucket."""

from io import BytesIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from buckets import Bucket, run_s3_server
from logged import make_row

from evergreen.monitoring.log import PredictionLog
from evergreen.monitoring.log_export import export
from evergreen.sources import SourceError


def test_export_to_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_s3_server() as server:
        bucket = Bucket(server, tmp_path, monkeypatch)
        log = PredictionLog.open(f"sqlite:///{tmp_path}/log.db")
        log.insert([make_row(), make_row()])
        assert export(log.stream(), f"{bucket.uri}/may/log.parquet") == 2
        content = bucket.client.get_object(Bucket=bucket.name, Key="may/log.parquet")["Body"].read()
        assert pq.read_table(BytesIO(content))["seq"].to_pylist() == [1, 2]
        with pytest.raises(SourceError, match="s3://missing"):
            export(log.stream(), "s3://missing/log.csv")
        log.close()
