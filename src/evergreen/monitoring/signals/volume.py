"""Is there enough traffic to judge by?"""

from typing import ClassVar

from evergreen.monitoring.signals.base import Measurement, Rule, Signal
from evergreen.monitoring.windows import Windows


class Volume(Signal):
    """Predictions of the champion in the current window; below `monitor.min_samples` there is nothing to judge.

    Parameters:
        rule: `watch`: that nobody asks makes no model stale.

    Example:
        >>> Volume().rule
        'watch'

    References:
        None: the number is `monitor.min_samples`.
    """

    title: ClassVar[str] = "Volume"
    spends_budget: ClassVar[bool] = False
    needs_traffic: ClassVar[bool] = False

    rule: Rule = "watch"

    def measure(self, windows: Windows, alpha: float) -> Measurement:  # noqa: ARG002 - no chance is involved
        """Count the predictions, and name other models that made some."""
        current, needed = windows.current, windows.params.min_samples
        others = [f"{count:,} by {model}" for model, count in windows.n_by_model.items()]
        message = f"{self.title}: {current.n_samples:,} predictions"
        if too_few := current.n_samples < needed:
            message += f", too few to judge: {needed:,} are needed"
        return Measurement(
            status="unknown" if too_few else "ok",
            message=message + (f" ({', '.join(others[:3])}, which do not count)." if others else "."),
            value=current.n_samples,
            threshold=needed,
            n_current=current.n_samples,
        )
