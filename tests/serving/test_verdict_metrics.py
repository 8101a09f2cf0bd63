"""The verdict as Prometheus reads it: what the file says, or nothing."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from monitored import SHIPPED, UNTIL, make_window, make_windows
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from running import RunningServer, run_server
from tiny_text_bundle import write_bundle

from evergreen.files import write_whole
from evergreen.monitoring import report
from evergreen.monitoring.signals import load_signals
from evergreen.monitoring.staleness import Verdict, judge, measure
from evergreen.params import Params
from evergreen.serving.verdict_metrics import MAX_BYTES, VERDICT, VerdictCollector

Series = dict[tuple[str, ...], float]
CONTENT: dict[str, Any] = {
    "status": "watch",
    "model": "text 1 abc",
    "until": "2026-05-01T00:00:00Z",
    "signals": [
        {"signal": "class_drift", "status": "alarm", "value": 0.2, "threshold": 0.1, "message": "more than is read"},
        {"signal": "volume", "status": "ok", "value": 300.0},
        {"signal": "age", "status": "unknown", "threshold": 30},
    ],
}
DAMAGED = {
    "empty": b"",
    "cut": json.dumps(CONTENT).encode()[:-20],
    "no UTF-8": b'{"status": "\xff"}',
    "another file": b'{"sunny": true}',
    "no object": b"[1, 2]",
    "deep": b"[" * 100_000,
    "status": json.dumps(CONTENT | {"status": "ripe"}).encode(),
    "time": json.dumps(CONTENT | {"until": "2026-05-01T00:00:00"}).encode(),
    "signal's name": json.dumps(CONTENT | {"signals": [{"signal": 'a"} 1\n', "status": "ok"}]}).encode(),
    "signals": json.dumps(CONTENT | {"signals": [{"signal": f"s{i}", "status": "ok"} for i in range(65)]}).encode(),
    "long model": json.dumps(CONTENT | {"model": "x" * 201}).encode(),
    "large": json.dumps(CONTENT | {"padding": "x" * MAX_BYTES}).encode(),
}


def parse(text: str) -> Series:
    """Series whose names have to do with the verdict, by name and labels' values."""
    return {
        (sample.name, *(sample.labels[label] for label in sorted(sample.labels))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith(("evergreen_verdict", "evergreen_signal"))
    }


class Scraper:
    """Prometheus, as far as it reads a folder of reports."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / VERDICT
        self.registry = CollectorRegistry()
        self.registry.register(VerdictCollector(folder))

    def write(self, **changes: Any) -> None:
        write_whole(self.file, json.dumps(CONTENT | changes).encode())

    def read(self) -> Series:
        return parse(generate_latest(self.registry).decode())


@pytest.fixture
def scraper(tmp_path: Path) -> Scraper:
    return Scraper(tmp_path)


def test_a_verdict_becomes_series(scraper: Scraper) -> None:
    scraper.write()
    assert scraper.read() == {
        ("evergreen_verdict", "text 1 abc", "fresh"): 0,
        ("evergreen_verdict", "text 1 abc", "watch"): 1,
        ("evergreen_verdict", "text 1 abc", "stale"): 0,
        ("evergreen_verdict_until_seconds",): datetime(2026, 5, 1, tzinfo=UTC).timestamp(),
        ("evergreen_signal_value", "class_drift"): 0.2,
        ("evergreen_signal_value", "volume"): 300,
        ("evergreen_signal_threshold", "class_drift"): 0.1,
        ("evergreen_signal_threshold", "age"): 30,
        ("evergreen_signal_alarm", "class_drift"): 1,
        ("evergreen_signal_alarm", "volume"): 0,
    }


@pytest.mark.parametrize("status", ["fresh", "watch", "stale"])
def test_one_status_is_set(scraper: Scraper, status: str) -> None:
    scraper.write(status=status)
    values = {key[2]: value for key, value in scraper.read().items() if key[0] == "evergreen_verdict"}
    assert values == dict.fromkeys(["fresh", "watch", "stale"], 0) | {status: 1}


def test_what_the_monitor_writes_is_read(tmp_path: Path) -> None:
    params = Params.load(SHIPPED).monitor
    signals = {name: signal for name, signal in load_signals(params.signals).items() if name != "data_quality"}
    windows = make_windows(300, current=make_window(300, 2, shift=2))
    verdict = judge(measure(windows, signals, params), windows, params, [])
    report.write_report(verdict, windows, tmp_path)
    assert report.VERDICT == VERDICT
    series = Scraper(tmp_path).read()
    assert series["evergreen_verdict", verdict.model, verdict.status] == 1
    assert series["evergreen_verdict_until_seconds",] == UNTIL.timestamp()
    for reason in Verdict.load(tmp_path / VERDICT).signals:
        assert series.get(("evergreen_signal_value", reason.signal)) == reason.value
        assert series.get(("evergreen_signal_threshold", reason.signal)) == reason.threshold
        alarm = None if reason.status == "unknown" else float(reason.status == "alarm")
        assert series.get(("evergreen_signal_alarm", reason.signal)) == alarm


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_verdict_gives_no_series_and_takes_the_old_ones_away(scraper: Scraper, content: bytes) -> None:
    scraper.write()
    assert scraper.read()
    scraper.file.write_bytes(content)
    assert scraper.read() == {}
    assert scraper.read() == {}
    scraper.write(status="fresh")
    assert scraper.read()["evergreen_verdict", "text 1 abc", "fresh"] == 1


@pytest.mark.parametrize("make", [None, Path.mkdir, os.mkfifo], ids=["missing", "folder", "pipe"])
def test_what_is_no_file_gives_no_series(scraper: Scraper, make: Any) -> None:
    scraper.write()
    assert scraper.read()
    scraper.file.unlink()
    if make:
        make(scraper.file)
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        assert scraper.read() == {}
    assert len(list(Path("/proc/self/fd").iterdir())) == n_open


def test_a_file_is_parsed_once(scraper: Scraper, monkeypatch: pytest.MonkeyPatch) -> None:
    scraper.write()
    first = scraper.read()
    monkeypatch.setattr(VerdictCollector, "_parse", None)
    assert scraper.read() == first


def test_a_signal_that_is_there_twice_is_one_series(scraper: Scraper) -> None:
    scraper.write(signals=[{"signal": "age", "status": "ok"}, {"signal": "age", "status": "alarm"}])
    lines = generate_latest(scraper.registry).decode().splitlines()
    assert [line for line in lines if line.startswith("evergreen_signal")] == [
        'evergreen_signal_alarm{signal="age"} 1.0'
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("verdict")
    with run_server(folder, write_bundle(folder / "text")) as running:
        yield running


def test_a_running_server_follows_the_monitor(server: RunningServer) -> None:
    def scrape() -> Series:
        return parse(server.client.get("/metrics").raise_for_status().text)

    assert scrape() == {}
    file = server.folder / "reports" / VERDICT
    file.parent.mkdir()
    write_whole(file, json.dumps(CONTENT).encode())
    assert scrape()["evergreen_verdict", "text 1 abc", "watch"] == 1
    write_whole(file, json.dumps(CONTENT | {"status": "stale"}).encode())
    assert scrape()["evergreen_verdict", "text 1 abc", "stale"] == 1
    file.write_bytes(DAMAGED["cut"])
    assert scrape() == {}
    assert "evergreen_workers" in server.client.get("/metrics").text
    assert server.client.get("/ready").status_code == 200
