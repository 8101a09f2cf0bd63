"""What the stages write under `metrics/`: typed groups of numbers, saved as JSON under the names of their fields."""

from pathlib import Path
from typing import Self

from pydantic import BaseModel


class Metrics(BaseModel):
    """A group of metrics that can be a file."""

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file that `save` wrote."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    def save(self, path: Path) -> None:
        """Write JSON, making the folder where there is none."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


class Estimate(Metrics):
    """A value with its confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"
