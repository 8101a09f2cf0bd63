"""How long ago was the newest text that the champion knows?"""

from datetime import datetime, timedelta
from typing import Annotated, ClassVar

from pydantic import Field

from evergreen.monitoring.signals.base import Measurement, Signal
from evergreen.monitoring.windows import Windows


class Age(Signal):
    """Days from the newest text trained on to the end of the current window.

    Training again on the same texts does not make a model younger: so it is the data's age, not the training's.

    Parameters:
        max_days: above it the model is old.

    Example:
        >>> Age(max_days=90).spends_budget
        False

    References:
        None: whoever knows how fast their subject changes sets the number.
    """

    title: ClassVar[str] = "Age"
    spends_budget: ClassVar[bool] = False
    needs_traffic: ClassVar[bool] = False

    max_days: Annotated[int, Field(ge=1)]

    def measure(self, windows: Windows, alpha: float) -> Measurement:  # noqa: ARG002 - no chance is involved
        """Count the days."""
        newest = datetime.fromisoformat(windows.manifest.data_cutoff)
        days = (windows.current.until - newest) / timedelta(days=1)
        return Measurement(
            status="alarm" if days > self.max_days else "ok",
            message=f"{self.title}: {days:.0f} days since the newest text trained on, alarm above {self.max_days}.",
            value=round(days, 3),
            threshold=self.max_days,
        )
