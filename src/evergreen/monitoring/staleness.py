"""The verdict: what the signals say together, by the rules of `params.yaml`.

The false-alarm budget is spent by the union bound, which holds however the signals and the looks depend on each other:
each signal gets its weight's part of it, each look an equal part of that (Bonferroni's form of alpha spending, Lan and
DeMets, Biometrika 1983). Looks repeat the same window until the next midnight, so a look made twice costs nothing.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from evergreen.metrics import Metrics
from evergreen.monitoring.explanation import TopicShares
from evergreen.monitoring.signals import Measurement, Rule, Signal
from evergreen.monitoring.windows import Windows
from evergreen.params import MonitorParams

VerdictStatus = Literal["fresh", "watch", "stale"]
Action = Literal["none", "wait", "investigate", "repair_input", "retrain"]

WHAT_TO_DO: dict[Action, str] = {
    "none": "Nothing to do.",
    "wait": "Nothing to do until there is more traffic or labels; make sure that the service is asked at all.",
    "investigate": "Read the evidence. One more alarm, or labels that confirm it, makes the verdict stale.",
    "repair_input": "Repair what sends the texts first: training on broken input would not help.",
    "retrain": "Retrain on newer labeled texts; the gate shows whether the new model is better.",
}


class Reason(Measurement):
    """What one signal found, and what follows from it."""

    signal: str
    title: str
    rule: Rule
    alpha: float | None = None
    """Its part of the false-alarm budget at this look."""


class Verdict(Metrics):
    """`reports/monitoring/verdict.json`.

    Attributes:
        summary: the verdict in one sentence.
        action, what_to_do: what follows from it.
        can_judge: false where there is too little traffic; then the verdict is never fresh.
        model: name, version and run of the champion.
        since, until: bounds of the current window.
        reference: where the texts are from that the window is compared with.
        false_alarm_rate, budget_days: chance of an alarm while nothing changes.
        reasons: the signals that made the verdict, most serious first; empty when fresh.
        signals: all signals, `reasons` included.
        topics: what the texts are about, in both windows.
    """

    status: VerdictStatus
    summary: str
    action: Action
    what_to_do: str
    can_judge: bool
    model: str
    since: datetime
    until: datetime
    n_predictions: int
    n_reference: int
    reference: str = "the test set"
    false_alarm_rate: float
    budget_days: int
    reasons: list[Reason]
    signals: list[Reason]
    topics: list[TopicShares]


def share_budget(signals: Mapping[str, Signal], params: MonitorParams) -> dict[str, float]:
    """Divide the false-alarm budget among signals and looks: alpha of each signal that spends some, at one look."""
    spenders = {name: signal.weight for name, signal in signals.items() if signal.spends_budget}
    looks = params.budget_days / params.look_days
    total = sum(spenders.values())
    return {name: params.false_alarm_rate * weight / total / looks for name, weight in spenders.items()}


def measure(windows: Windows, signals: Mapping[str, Signal], params: MonitorParams) -> list[Reason]:
    """Ask every signal; those that need traffic are unknown where there is too little."""
    alphas = share_budget(signals, params)
    has_traffic = windows.current.n_samples >= params.min_samples
    reasons = []
    for name, signal in signals.items():
        alpha = alphas.get(name)
        if has_traffic or not signal.needs_traffic:
            measurement = signal.measure(windows, alpha or 0.0)
        else:
            count = windows.current.n_samples
            measurement = Measurement.unknown(f"{signal.title}: too few predictions ({count:,}) to judge.", count)
        reasons.append(
            Reason(**measurement.model_dump(), signal=name, title=signal.title, rule=signal.rule, alpha=alpha)
        )
    return reasons


def judge(reasons: list[Reason], windows: Windows, params: MonitorParams, topics: list[TopicShares]) -> Verdict:
    """Combine what the signals say.

    Args:
        reasons: of all signals.
        windows: what they looked at.
        params: how many alarms that need company make the verdict stale.
        topics: for the reader.
    """
    current = windows.current
    can_judge = current.n_samples >= params.min_samples
    alarms = [reason for reason in reasons if reason.status == "alarm"]
    by_rule: dict[Rule, list[Reason]] = {
        rule: [reason for reason in alarms if reason.rule == rule] for rule in ("alone", "input", "company", "watch")
    }
    has_company = len(by_rule["company"]) >= params.company_size and not by_rule["input"]
    action: Action
    if by_rule["alone"] or has_company:
        status: VerdictStatus = "stale"
        action = "repair_input" if by_rule["input"] else "retrain"
    elif alarms:
        status, action = "watch", "repair_input" if by_rule["input"] else "investigate"
    elif not can_judge:
        status, action = "watch", "wait"
    else:
        status, action = "fresh", "none"
    made_by = [reason for rule in by_rule for reason in by_rule[rule]]
    if not can_judge:
        made_by += [reason for reason in reasons if reason.signal == "volume"]
    return Verdict(
        status=status,
        summary=_summarize(status, made_by, can_judge),
        action=action,
        what_to_do=WHAT_TO_DO[action],
        can_judge=can_judge,
        model=windows.manifest.identity,
        since=current.since,
        until=current.until,
        n_predictions=current.n_samples,
        n_reference=windows.reference.n_samples,
        reference=windows.reference_source,
        false_alarm_rate=params.false_alarm_rate,
        budget_days=params.budget_days,
        reasons=made_by,
        signals=reasons,
        topics=topics,
    )


def _summarize(status: VerdictStatus, reasons: list[Reason], can_judge: bool) -> str:
    titles = ", ".join(reason.title.lower() for reason in reasons if reason.status == "alarm")
    if titles:
        text = f"{'Stale' if status == 'stale' else 'Watch'}: alarm of {titles}."
        return text if can_judge else f"{text} There is too little traffic to judge the rest."
    return "Fresh: no signal gives an alarm." if can_judge else "Watch: too little traffic to judge."
