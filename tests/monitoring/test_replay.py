"""Scenarios end in the verdicts that they should, on a real classifier of real texts, through runtime and server."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from running import run_server
from trained_text_bundle import prepare_texts, train_bundle

from evergreen.monitoring.log import PredictionLog
from evergreen.monitoring.monitor import Monitor
from evergreen.monitoring.replay import (
    Corpus,
    FeedbackPlan,
    ReplayedLook,
    ReplayError,
    RuntimeFeeder,
    Scenario,
    ServerFeeder,
    choose_feedback,
    list_scenarios,
    replay,
    start_log,
)
from evergreen.params import Params

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PARAMS = Params.load(ROOT / "params.yaml")
DRIFT = {"embedding_drift", "class_drift", "confidence_drift", "estimated_performance"}


class Prepared(NamedTuple):
    data: Path
    bundle: Path
    monitor: Monitor


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("prepared")
    data = prepare_texts(folder / "data")
    bundle = train_bundle(data, folder / "bundle")
    return Prepared(data, bundle, Monitor.load(PARAMS, bundle, data / "test.parquet"))


def load_corpus(prepared: Prepared) -> Corpus:
    return Corpus([prepared.data / "validation.parquet", prepared.data / "stream.parquet"], PARAMS.seed)


def run(name: str, prepared: Prepared, folder: Path) -> list[ReplayedLook]:
    feeder = RuntimeFeeder(prepared.monitor.classifier, start_log(folder / "log.db"))
    return list(replay(Scenario.load(name), load_corpus(prepared), prepared.monitor, feeder))


def list_alarms(look: ReplayedLook) -> set[str]:
    return {reason.signal for reason in look.verdict.reasons if reason.status == "alarm"}


def test_stationary_weeks_are_fresh(prepared: Prepared, tmp_path: Path) -> None:
    looks = run("stationary", prepared, tmp_path)
    assert [look.verdict.status for look in looks] == ["fresh"] * 4
    for look in looks:
        measured = next(reason for reason in look.verdict.signals if reason.signal == "measured_performance")
        assert measured.low is not None
        assert measured.high is not None
        assert look.accuracy is not None
        assert measured.low < look.accuracy < measured.high


def test_sudden_shift_is_stale_at_once(prepared: Prepared, tmp_path: Path) -> None:
    looks = run("sudden", prepared, tmp_path)
    assert [look.verdict.status for look in looks] == ["fresh"] * 2 + ["stale"] * 4
    assert {look.verdict.action for look in looks[2:]} == {"retrain"}
    assert "measured_performance" in list_alarms(looks[3])
    assert looks[2].verdict.topics[0].topic == "airline"
    texts = next(reason for reason in looks[-1].verdict.reasons if reason.signal == "embedding_drift")
    assert "car" in texts.evidence[0]


def test_gradual_shift_is_stale_before_the_new_topic_is_all(prepared: Prepared, tmp_path: Path) -> None:
    statuses = [look.verdict.status for look in run("gradual", prepared, tmp_path)]
    assert statuses[0] == "fresh"
    assert statuses[-2:] == ["stale", "stale"]
    assert statuses == sorted(statuses, key=["fresh", "watch", "stale"].index)


def test_label_shift_alone_is_watched(prepared: Prepared, tmp_path: Path) -> None:
    looks = run("label_shift", prepared, tmp_path)
    assert [look.verdict.status for look in looks] == ["fresh", "fresh", "watch"]
    assert list_alarms(looks[2]) == {"class_drift"}


def test_broken_upstream_is_to_be_repaired(prepared: Prepared, tmp_path: Path) -> None:
    """Even where several signals are in alarm: training again would not help."""
    looks = run("broken_upstream", prepared, tmp_path)
    assert [look.verdict.status for look in looks] == ["fresh", "watch", "watch", "watch"]
    assert {look.verdict.action for look in looks[1:]} == {"repair_input"}
    for look, fault in zip(looks[1:], ("cut off", "unknown script", "new language"), strict=True):
        quality = look.verdict.reasons[0]
        assert quality.signal == "data_quality"
        assert fault in quality.message
        assert len(list_alarms(look) & DRIFT) >= 2


def test_quickstart_shows_the_alarm(prepared: Prepared, tmp_path: Path) -> None:
    assert [look.verdict.status for look in run("quickstart", prepared, tmp_path)] == ["fresh", "fresh", "stale"]


def test_every_scenario_is_tested() -> None:
    assert list_scenarios() == ["broken_upstream", "gradual", "label_shift", "quickstart", "stationary", "sudden"]


def test_replay_is_repeatable(prepared: Prepared, tmp_path: Path) -> None:
    once, again = (run("quickstart", prepared, tmp_path / name)[-1].verdict for name in ("once", "again"))
    assert once == again


def test_replay_through_a_server(prepared: Prepared, tmp_path: Path) -> None:
    """Texts and labels go through the real API, and the log that the server wrote gives the same verdicts."""
    scenario = Scenario.load("quickstart").model_copy(update={"texts_per_week": 220})
    with run_server(tmp_path / "server", prepared.bundle) as server:
        log = PredictionLog.open(f"sqlite:///{server.folder / 'state' / 'predictions.db'}")
        identity = prepared.monitor.classifier.manifest.identity
        feeder = ServerFeeder(server.url, log, identity)
        looks = list(replay(scenario, load_corpus(prepared), prepared.monitor, feeder))
        assert [look.verdict.status for look in looks] == ["fresh", "fresh", "stale"]
        assert sum(1 for _ in log.stream()) == 660
        assert looks[0].windows.labels[0].coverage == pytest.approx(0.5 * 5 / 7, abs=0.1)  # labels take two days
        other = ServerFeeder(server.url, log, "text 9.9.9 xyz")
        with pytest.raises(ReplayError, match=r"not with text 9\.9\.9 xyz. Serve this bundle"):
            list(replay(scenario, load_corpus(prepared), prepared.monitor, other))
    with pytest.raises(ReplayError, match="Start the server: make serve"):
        list(replay(scenario, load_corpus(prepared), prepared.monitor, feeder))


def test_too_few_texts_are_named(prepared: Prepared, tmp_path: Path) -> None:
    scenario = Scenario.load("stationary").model_copy(update={"texts_per_week": 600})
    feeder = RuntimeFeeder(prepared.monitor.classifier, start_log(tmp_path / "log.db"))
    with pytest.raises(ReplayError, match=r"600 texts of topic airline are asked for, 470 are left"):
        list(replay(scenario, load_corpus(prepared), prepared.monitor, feeder))


def test_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReplayError, match=r"validation.parquet: missing. Make it \(dvc repro\)"):
        Corpus([tmp_path / "validation.parquet"], 0)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- a\n", "not a scenario in YAML"),
        ("a: [\n", "not a scenario in YAML"),
        ("description: x\n", "start: Field required"),
        (
            "{description: x, start: 2026-01-05, texts_per_week: 0, feedback: {fraction: 1}, weeks: []}",
            "texts_per_week: ",
        ),
        (
            "{description: x, start: 2026-01-05, texts_per_week: 9, feedback: {fraction: 2}, weeks: [{topics: {a: 1}}]}",
            "feedback.fraction: Input should be less than or equal to 1",
        ),
        (
            "{description: x, start: 2026-01-05, texts_per_week: 9, feedback: {fraction: 1}, "
            "weeks: [{topics: {a: 1}, fault: {read: utf-61}}]}",
            "weeks.0.fault: Value error, read: 'utf-61' is no encoding",
        ),
        (
            "{description: x, start: 2026-01-05, texts_per_week: 9, feedback: {fraction: 1}, "
            "weeks: [{topics: {a: 1}, foreign: {fraction: 0.1, texts: none.txt}}]}",
            "foreign.texts: no file",
        ),
    ],
)
def test_wrong_scenario_is_named(content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(ReplayError) as error:
        Scenario.load(str(path))
    assert words in str(error.value)
    assert error.value.exit_code == 2


def test_unknown_scenario_is_named() -> None:
    with pytest.raises(ReplayError, match="There are: broken_upstream, gradual"):
        Scenario.load("suddden")


def test_feedback_of_those_who_complain() -> None:
    rng = np.random.default_rng(0)
    labels = choose_feedback(["a"] * 400, ["a"] * 200 + ["b"] * 200, FeedbackPlan(fraction=0.5, only="wrong"), rng)
    assert labels[:200] == [None] * 200
    assert 70 < sum(label == "b" for label in labels) < 130
    everybody = choose_feedback(["a"] * 3, ["a", "b", None], FeedbackPlan(fraction=1), rng)
    assert everybody == ["a", "b", None]
