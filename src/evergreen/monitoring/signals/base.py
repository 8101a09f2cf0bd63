"""What a signal is: one question about the current window, answered with a number, a threshold and the evidence."""

from abc import abstractmethod
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from evergreen.metrics import Metrics
from evergreen.monitoring.two_sample import Comparison
from evergreen.monitoring.windows import Windows

Rule = Literal["alone", "company", "input", "watch"]
Status = Literal["ok", "alarm", "unknown"]
Positive = Annotated[float, Field(gt=0)]


class Measurement(Metrics):
    """What a signal found.

    Attributes:
        status: `unknown` where there is too little to judge.
        message: one sentence or two for a person: the finding, its size, the threshold.
        value, low, high: the finding with its interval, in the signal's unit.
        threshold: of the value; beyond it the finding matters.
        p_value: how often chance alone does as much; None where chance plays no part, or the interval decides.
        n_reference, n_current: examples behind the value.
        details: further numbers.
        evidence: what a person can check, a line each; user text in it is as the log keeps it, not escaped.
    """

    status: Status
    message: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    threshold: float | None = None
    p_value: float | None = None
    n_reference: int = 0
    n_current: int = 0
    details: dict[str, float] = Field(default_factory=dict)
    evidence: list[str] = Field(default_factory=list)

    @classmethod
    def unknown(cls, message: str, n_current: int = 0) -> "Measurement":
        """Say why there is nothing to judge."""
        return cls(status="unknown", message=message, n_current=n_current)


class Signal(BaseModel):
    """One question about the current window. A subclass in a module of `signals/` is all that a new one needs.

    Its fields are its parameters, set under `monitor.signals.NAME` of `params.yaml`, NAME being the module's; a field
    without a default must be set there.

    Parameters:
        rule: what its alarm does. `alone`: makes the verdict stale. `company`: does so together with another, else
            watch. `input`: watch, and what needs company no longer counts, since broken input explains it. `watch`:
            no more than watch.
        weight: its part of the false-alarm budget, beside those of the other signals.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    title: ClassVar[str]
    """What it looks at, for people."""
    spends_budget: ClassVar[bool] = True
    """Whether chance can make it give an alarm."""
    needs_traffic: ClassVar[bool] = True
    """Whether it is unknown while the window has fewer than `monitor.min_samples` predictions."""

    rule: Rule = "company"
    weight: Positive = 1.0

    @classmethod
    def get_name(cls) -> str:
        """The name in `params.yaml` and in reports: its module's."""
        return cls.__module__.rsplit(".", 1)[-1]

    @abstractmethod
    def measure(self, windows: Windows, alpha: float) -> Measurement:
        """Look at the current window.

        Args:
            windows: what is compared.
            alpha: chance of an alarm that may be taken where nothing has changed.
        """


def judge_comparison(comparison: Comparison, min_distance: float, alpha: float, what: str) -> Measurement:
    """An alarm needs both: more than chance does, and enough to matter.

    Args:
        what: begins the message, as "Texts" in "Texts: distance …".
    """
    distance = comparison.distance
    is_alarm = comparison.p_value <= alpha and distance.value >= min_distance
    message = (
        f"{what}: distance {distance}, alarm from {min_distance:g}; "
        f"p = {comparison.p_value:.2g}, alarm up to {alpha:.2g}."
    )
    return Measurement(
        status="alarm" if is_alarm else "ok",
        message=message,
        value=distance.value,
        low=distance.low,
        high=distance.high,
        threshold=min_distance,
        p_value=comparison.p_value,
        n_reference=comparison.n_reference,
        n_current=comparison.n_current,
    )
