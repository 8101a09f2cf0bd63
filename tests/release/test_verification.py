"""Smoke test, measurement and verification of a running server: what holds, and what has to be rolled back."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from running import RunningServer, find_port, run_server
from served import ROOT, Spoiler, make_golden, make_release_params, open_server, spoil
from tiny_text_bundle import write_bundle

from evergreen.release.golden import GoldenSet
from evergreen.release.measurement import (
    Counters,
    Figures,
    Measurement,
    TooShortError,
    bound_rank,
    check_duration,
    estimate_quantile,
    measure,
)
from evergreen.release.server import ServerError
from evergreen.release.smoke import SmokeError, smoke
from evergreen.release.verification import VerificationError, judge, verify

pytestmark = pytest.mark.slow

PARAMS = make_release_params()
SECONDS = 2.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "text")


@pytest.fixture(scope="module")
def golden(bundle: Path) -> GoldenSet:
    return make_golden(bundle)


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with run_server(tmp_path_factory.mktemp("server"), bundle) as running:
        yield running


def run_command(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    """`evergreen release …` with short limits."""
    text = (ROOT / "params.yaml").read_text()
    for old, new in (("min_requests: 500", "min_requests: 20"), ("probes_per_second: 4.0", "probes_per_second: 20")):
        assert old in text
        text = text.replace(old, new)
    (folder / "params.yaml").write_text(text.replace("ready_seconds: 120", "ready_seconds: 1"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("EVERGREEN_", "GITHUB_"))}
    command = [str(Path(sys.executable).with_name("evergreen")), "release", *options]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment | {"GITHUB_STEP_SUMMARY": str(folder / "summary.md")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_server_with_the_bundle_passes(server: RunningServer, golden: GoldenSet) -> None:
    with open_server(server.url) as running:
        assert "12 texts alone, together, in a batch" in smoke(running, golden, PARAMS)
    assert server.client.get("/v1/batches").json() == []  # what it sent is removed
    callers = {row.prediction.caller_id for row in server.read_log()}
    assert "evergreen-release" in callers


def test_server_with_another_bundle_is_named(golden: GoldenSet, tmp_path: Path) -> None:
    other = write_bundle(tmp_path / "other", seed=2)  # of the same version and run
    with run_server(tmp_path / "server", other) as running, open_server(running.url) as asked:
        with pytest.raises(SmokeError, match=r"not the release's: model\.onnx differs"):
            smoke(asked, golden, PARAMS)
        with pytest.raises(VerificationError) as caught:
            verify(asked, golden, None, PARAMS, SECONDS)
        assert caught.value.exit_code == 5
        golden.save(tmp_path / "golden.json")
        address = (running.url, "--golden", "golden.json")
        assert run_command(tmp_path, "smoke", *address).returncode == 1
        verified = run_command(tmp_path, "verify", *address, "--minutes", "0.05")
        assert verified.returncode == 5, verified.stderr
        assert "model.onnx differs" in verified.stderr


def test_answers_that_differ_are_shown_without_their_texts(server: RunningServer, golden: GoldenSet) -> None:
    wrong = golden.model_copy(deep=True)
    wrong.samples[3].label = "other"
    with open_server(server.url) as running, pytest.raises(SmokeError) as caught:
        smoke(running, wrong, PARAMS)
    assert "text 3, alone" in str(caught.value)
    assert "text 3, together" in str(caught.value)
    assert wrong.samples[3].text not in str(caught.value)
    with (
        spoil(server.url, Spoiler(probability=0.002)) as url,
        open_server(url) as spoiled,
        pytest.raises(SmokeError, match=r"differs by 0\.0020[\s\S]*and 14 more"),
    ):
        smoke(spoiled, golden, PARAMS)
    with spoil(server.url, Spoiler(probability=0.0005)) as url, open_server(url) as spoiled:
        smoke(spoiled, golden, PARAMS, with_batch=False)


def test_release_without_the_detector_is_named(server: RunningServer, golden: GoldenSet) -> None:
    video = golden.text_model.model_copy(update={"name": "video"})
    with open_server(server.url) as running, pytest.raises(SmokeError, match="no video model"):
        smoke(running, golden.model_copy(update={"video_model": video}), PARAMS)


def test_probes_are_counted_as_ours(server: RunningServer, golden: GoldenSet) -> None:
    with open_server(server.url) as running:
        result = measure(running, golden.texts, PARAMS, SECONDS)
    assert result.server is not None
    assert 20 <= result.probes.n_requests <= 41
    # Looks at /v1/model and at /metrics are no requests of callers.
    assert result.server.n_requests == result.probes.n_requests
    assert result.server.n_errors == 0
    assert result.server.p99_ms is not None
    assert result.probes.p99_ms is not None
    assert result.server.p99_ms < 1000


@contextmanager
def call_often(url: str) -> Iterator[None]:
    """Callers who ask for the length of a block, about fifty times a second."""
    stopped = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not stopped.wait(0.02):
                client.post("/v1/classify", json={"text": "a good flight"})

    caller = threading.Thread(target=ask)
    caller.start()
    try:
        yield
    finally:
        stopped.set()
        caller.join()


def test_callers_who_send_enough_need_no_probes(server: RunningServer, golden: GoldenSet) -> None:
    with call_often(server.url), open_server(server.url) as running:
        result = measure(running, golden.texts, PARAMS, 12)
    assert result.server is not None
    assert result.server.n_requests > 200
    assert result.probes.n_requests <= 5 * 20 + 1  # of the first look, before it was known


def test_same_version_holds(server: RunningServer, golden: GoldenSet, tmp_path: Path) -> None:
    golden.save(tmp_path / "golden.json")
    address = (server.url, "--golden", "golden.json", "--minutes", "0.03")
    before = run_command(tmp_path, "measure", *address, "--out", "before.json")
    assert before.returncode == 0, before.stderr
    verified = run_command(tmp_path, "verify", *address, "--before", "before.json", "--out", "verification.json")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "The release holds." in verified.stdout
    assert ", before " in verified.stdout
    assert "**The release holds.**" in (tmp_path / "summary.md").read_text()
    alone = run_command(tmp_path, "verify", *address, "--before", "missing.json")
    assert alone.returncode == 0
    assert "only absolute limits" in alone.stdout


def test_release_with_errors_does_not_hold(server: RunningServer, golden: GoldenSet) -> None:
    with open_server(server.url) as running:
        before = measure(running, golden.texts, PARAMS, SECONDS)
    # The smoke test sends thirteen requests.
    with spoil(server.url, Spoiler(error_every=14)) as url, open_server(url) as spoiled:
        result = verify(spoiled, golden, before, PARAMS, SECONDS)
    assert not result.passed
    assert [check.name for check in result.checks if not check.passed] == ["errors"]


def test_slow_release_does_not_hold(server: RunningServer, golden: GoldenSet) -> None:
    with open_server(server.url) as running:
        before = measure(running, golden.texts, PARAMS, SECONDS)
    metrics = [f'evergreen_requests_total{{route="/v1/classify",status="200"}} {i}.0\n' for i in (0, 0)]
    patient = PARAMS.model_copy(update={"min_requests": 5})
    with spoil(server.url, Spoiler(seconds=0.3, metrics=metrics)) as url, open_server(url) as slow:
        result = verify(slow, golden, before, patient, SECONDS)
    assert result.now.server is None  # counters that stand still are another server's
    assert [check.name for check in result.checks if not check.passed] == ["p99"]


def test_counters_of_several_servers_do_not_count(server: RunningServer, golden: GoldenSet) -> None:
    metrics = [f'evergreen_requests_total{{route="/v1/classify",status="200"}} {i}.0\n' for i in (9000, 100)]
    with spoil(server.url, Spoiler(metrics=metrics)) as url, open_server(url) as balanced:
        result = measure(balanced, golden.texts, PARAMS, SECONDS)
    assert result.server is None
    assert result.probes.n_requests >= 20
    assert all(check.passed for check in judge(result, None, PARAMS))


def test_nothing_there_is_nothing_to_measure_and_not_verified(golden: GoldenSet, tmp_path: Path) -> None:
    golden.save(tmp_path / "golden.json")
    address = (f"http://127.0.0.1:{find_port()}", "--golden", "golden.json", "--minutes", "0.03")
    (tmp_path / "before.json").write_text("of an earlier release")
    measured = run_command(tmp_path, "measure", *address, "--out", "before.json")
    assert measured.returncode == 0
    assert "nothing to measure" in measured.stdout
    assert not (tmp_path / "before.json").exists()
    verified = run_command(tmp_path, "verify", *address)
    assert verified.returncode == 5
    assert "not ready within 1 s" in verified.stderr
    assert run_command(tmp_path, "smoke", *address[:3]).returncode == 1


def test_wrong_usage_is_told_apart(golden: GoldenSet, tmp_path: Path) -> None:
    golden.save(tmp_path / "golden.json")
    url = "http://127.0.0.1:9"
    assert run_command(tmp_path, "verify", "--golden", "golden.json").returncode == 2  # no address
    assert run_command(tmp_path, "verify", url).returncode == 2  # no golden set
    (tmp_path / "before.json").write_text("{}")
    wrong = run_command(tmp_path, "verify", url, "--golden", "golden.json", "--before", "before.json")
    assert wrong.returncode == 2
    assert "before.json: not what evergreen release measure writes" in wrong.stderr
    with pytest.raises(TooShortError, match=r"Measure for 0\.4 minutes"):
        check_duration(10, make_release_params(min_requests=100, probes_per_second=4.0))


def test_server_that_asks_for_a_key_gets_it(bundle: Path, golden: GoldenSet, tmp_path: Path) -> None:
    from pydantic import SecretStr

    from evergreen.release.server import Server
    from evergreen.serving.security import hash_key

    with run_server(tmp_path, bundle, EVERGREEN_API_KEYS=f"web:{hash_key('secret')}") as running:
        with open_server(running.url) as asked, pytest.raises(ServerError, match="Set EVERGREEN_API_KEY"):
            smoke(asked, golden, PARAMS)
        with Server(running.url, SecretStr("secret")) as asked:
            smoke(asked, golden, PARAMS, with_batch=False)


def test_quantile_is_within_its_bucket() -> None:
    rng = np.random.default_rng(0)
    values = rng.exponential(0.05, 20_000)
    bounds = [0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, float("inf")]
    buckets = Counter({bound: int((values <= bound).sum()) for bound in bounds})
    estimate = estimate_quantile(buckets, 0.99)
    assert estimate is not None
    assert estimate == pytest.approx(np.quantile(values, 0.99), rel=0.1)
    assert estimate_quantile(Counter(), 0.99) is None
    assert estimate_quantile(Counter({0.1: 0, float("inf"): 5}), 0.99) == 0.1


def test_p99_of_an_interval_forgets_what_was_before() -> None:
    def read(fast: int, slow: int) -> Counters:
        rows = [("0.01", fast), ("0.1", fast), ("1.0", fast + slow), ("+Inf", fast + slow)]
        name = 'evergreen_request_seconds_bucket{le="%s",route="/v1/classify"} %d\n'
        return Counters.parse("# TYPE evergreen_request_seconds histogram\n" + "".join(name % row for row in rows))

    figures = read(1000, 100).subtract(read(1000, 0))
    assert figures.p99_ms == pytest.approx(991, abs=1)  # not interpolated from zero
    figures = read(2000, 100).subtract(read(1000, 100))
    assert figures.p99_ms is not None
    assert figures.p99_ms < 10


def test_p99_of_the_same_version_is_seldom_surely_higher() -> None:
    rng = np.random.default_rng(0)
    values = rng.lognormal(3, 0.8, (2000, 500))
    lower = np.quantile(values, bound_rank(500), axis=1)
    assert 0.003 < np.mean(lower > np.exp(3 + 0.8 * 2.3263)) < 0.02
    assert np.mean(np.quantile(2.5 * values, bound_rank(500), axis=1) > 1.5 * np.exp(3 + 0.8 * 2.3263)) > 0.7


@pytest.mark.parametrize(
    ("errors", "p99", "failed"),
    [(0, 20.0, []), (2, 80.0, []), (3, 80.0, ["errors"]), (0, 81.0, ["p99"]), (0, None, ["p99"])],
)
def test_limits_are_those_of_the_params(errors: int, p99: float | None, failed: list[str]) -> None:
    def see(n_errors: int, value: float | None) -> Measurement:
        figures = Figures(n_requests=200, n_errors=n_errors, p99_ms=value, p99_low_ms=value)
        return Measurement(model="text 1 a", seconds=60, server=figures, probes=figures)

    checks = judge(see(errors, p99), see(0, 20.0), PARAMS)  # 20 × 1.5 + 50
    assert [check.name for check in checks if not check.passed] == failed
    few = judge(see(0, 20.0), None, PARAMS.model_copy(update={"min_requests": 201}))
    assert [check.name for check in few if not check.passed] == ["requests"]
