"""The verdict: how signals are combined, and how the false-alarm budget is divided."""

import copy
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from monitored import SHIPPED, make_params, make_windows

from evergreen.monitoring.signals import Rule, Status, list_signals, load_signals
from evergreen.monitoring.staleness import Reason, judge, share_budget
from evergreen.monitoring.windows import find_look
from evergreen.params import Params, ParamsError

RULES: list[Rule] = ["alone", "company", "input", "watch"]


def make_reason(rule: Rule, status: Status = "alarm", signal: str = "some") -> Reason:
    return Reason(status=status, message=f"{signal}.", signal=signal, title=signal.title(), rule=rule)


@pytest.mark.parametrize(
    ("alarms", "n_predictions", "status", "action"),
    [
        ([], 1000, "fresh", "none"),
        (["watch"], 1000, "watch", "investigate"),
        (["company"], 1000, "watch", "investigate"),
        (["company", "company"], 1000, "stale", "retrain"),
        (["company", "watch"], 1000, "watch", "investigate"),
        (["alone"], 1000, "stale", "retrain"),
        (["input"], 1000, "watch", "repair_input"),
        (["input", "company", "company"], 1000, "watch", "repair_input"),
        (["input", "alone"], 1000, "stale", "repair_input"),
        ([], 10, "watch", "wait"),
        (["alone"], 10, "stale", "retrain"),
        (["company"], 10, "watch", "investigate"),
    ],
)
def test_rules(alarms: list[Rule], n_predictions: int, status: str, action: str) -> None:
    reasons = [make_reason(rule) for rule in alarms] + [make_reason("company", "ok"), make_reason("watch", "unknown")]
    verdict = judge(reasons, make_windows(n_predictions), make_params(), [])
    assert (verdict.status, verdict.action) == (status, action)
    assert verdict.can_judge == (n_predictions >= 200)
    assert [reason.rule for reason in verdict.reasons] == sorted(alarms, key=_seriousness)
    assert len(verdict.signals) == len(reasons)


def _seriousness(rule: Rule) -> int:
    return ["alone", "input", "company", "watch"].index(rule)


@given(st.lists(st.tuples(st.sampled_from(RULES), st.sampled_from(["ok", "alarm", "unknown"])), max_size=6))
def test_one_alarm_more_never_makes_a_verdict_better(rows: list[tuple[Rule, Status]]) -> None:
    """Except for broken input, which takes company away."""
    order = ["fresh", "watch", "stale"]
    reasons = [make_reason(*row) for row in rows]
    windows, params = make_windows(1000), make_params()
    before = judge(reasons, windows, params, []).status
    for rule in ("alone", "company", "watch"):
        after = judge([*reasons, make_reason(rule)], windows, params, []).status
        assert order.index(after) >= order.index(before)


def test_too_little_traffic_is_never_fresh() -> None:
    verdict = judge([make_reason("watch", "unknown", "volume")], make_windows(0), make_params(), [])
    assert verdict.summary == "Watch: too little traffic to judge."
    assert [reason.signal for reason in verdict.reasons] == ["volume"]


@pytest.mark.parametrize("look_days", [1, 7, 30])
def test_budget_of_all_signals_and_looks_is_the_false_alarm_rate(look_days: int) -> None:
    params = make_params(look_days=look_days)
    alphas = share_budget(load_signals(params.signals), params)
    assert sum(alphas.values()) * params.budget_days / look_days == pytest.approx(params.false_alarm_rate)
    assert alphas.keys().isdisjoint({"age", "volume"})
    assert alphas["measured_performance"] == pytest.approx(2 * alphas["class_drift"])


@given(st.datetimes(datetime(2026, 1, 1), datetime(2027, 1, 1)), st.integers(1, 30))
def test_looks_are_midnights_so_many_days_apart(now: datetime, look_days: int) -> None:
    now = now.replace(tzinfo=UTC)
    look = find_look(now, look_days)
    assert now - timedelta(days=look_days) < look <= now
    assert look.time() == datetime.min.time()
    assert find_look(look, look_days) == look
    assert find_look(look + timedelta(days=look_days), look_days) - look == timedelta(days=look_days)


def test_every_signal_has_its_parameters_an_example_and_a_reference() -> None:
    for name, signal in list_signals().items():
        doc = signal.__doc__ or ""
        assert signal.get_name() == name
        assert all(heading in doc for heading in ("Parameters:", "Example:", "References:")), name
        assert all(f"{field}:" in doc for field in signal.model_fields if field not in ("rule", "weight")), name
    assert load_signals(Params.load(SHIPPED).monitor.signals).keys() == list_signals().keys()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embeding_drift": {"rule": "company"}}, "monitor.signals.embeding_drift: no such signal. There are: age, "),
        ({"age": {}}, "monitor.signals.age.max_days: found {}. Field required"),
        ({"age": {"max_days": 0}}, "monitor.signals.age.max_days: found 0. Input should be greater"),
        ({"age": {"max_days": 9, "rule": "maybe"}}, "monitor.signals.age.rule: found 'maybe'"),
        ({"age": {"max_days": 9, "limit": 3}}, "monitor.signals.age.limit: found 3. Extra inputs"),
        ({"class_drift": {"min_distance": 0.1, "weight": 0.0}}, "monitor.signals.class_drift.weight: found 0.0"),
    ],
)
def test_wrong_parameters_are_named(change: dict[str, Any], words: str) -> None:
    signals = copy.deepcopy(Params.load(SHIPPED).monitor.signals) | change
    with pytest.raises(ParamsError) as error:
        load_signals(signals)
    assert words in str(error.value)
    assert error.value.exit_code == 2


def test_a_signal_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module in the folder is a signal, measured and weighed like the others, without an entry anywhere."""
    from evergreen.monitoring import signals
    from evergreen.monitoring.staleness import measure

    (tmp_path / "night_share.py").write_text(
        "from typing import ClassVar\n"
        "from evergreen.monitoring.signals.base import Measurement, Signal\n"
        "class NightShare(Signal):\n"
        "    title: ClassVar[str] = 'Night'\n"
        "    limit: float = 0.5\n"
        "    def measure(self, windows, alpha):\n"
        "        return Measurement(status='alarm', message=f'{alpha > 0}', value=self.limit)\n"
    )
    monkeypatch.setattr(signals, "__path__", [*signals.__path__, str(tmp_path)])
    params = make_params()
    loaded = load_signals(params.signals)
    reasons = measure(make_windows(1000), {"night_share": loaded["night_share"]}, params)
    assert [(reason.signal, reason.message, reason.rule) for reason in reasons] == [("night_share", "True", "company")]
    assert "night_share" in share_budget(loaded, params)
