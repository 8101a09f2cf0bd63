"""Callers of the service in a rehearsal: real texts, day by day, of which some get their label back."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
from loop import Calendar

_TEXTS_PER_REQUEST = 32


def read_unseen(data: Path) -> pd.DataFrame:
    """Prepared texts that the champion was not trained on, in an order of their own."""
    splits = [pd.read_parquet(data / f"{name}.parquet") for name in ("validation", "stream")]
    return pd.concat(splits, ignore_index=True).sample(frac=1, random_state=0)


@dataclass
class Callers:
    """They draw each text once.

    Attributes:
        url: of the service.
        texts: to send, with `label` and `topic`; none that the champion was trained on.
        calendar: moved on day by day.
        accuracy: (day, fraction of its answers that were right), to look back at in the end.
    """

    url: str
    texts: pd.DataFrame
    calendar: Calendar
    accuracy: list[tuple[datetime, float]] = field(default_factory=list)

    def live_week(
        self,
        monday: datetime,
        topic: str,
        n_texts: int,
        labeled: float,
        spoil: Callable[[str, np.random.Generator], str] = lambda label, _: label,
    ) -> float:
        """Send a week's texts, and the labels of some; return the accuracy, which only the rehearsal knows.

        Args:
            monday: the week's first moment.
            topic: of the texts.
            n_texts: in seven days.
            labeled: fraction that gets its label back.
            spoil: what an annotator makes of a label.
        """
        rows = self.texts[self.texts["topic"] == topic][:n_texts]
        assert len(rows) == n_texts, f"{topic}: only {len(rows)} texts are left"
        self.texts = self.texts.drop(rows.index)
        rng = np.random.default_rng(n_texts)
        right = []
        with httpx.Client(base_url=self.url, timeout=60) as client:
            for day in range(7):
                self.calendar.set(monday + timedelta(days=day, hours=8))
                answered = self._live_day(client, rows[day::7], labeled, spoil, rng)
                self.accuracy.append((self.calendar.now, float(np.mean(answered))))
                right += answered
        self.calendar.set(monday + timedelta(days=7, hours=5, minutes=17))  # when the monitor looks
        return float(np.mean(right))

    @staticmethod
    def _live_day(
        client: httpx.Client,
        rows: pd.DataFrame,
        labeled: float,
        spoil: Callable[[str, np.random.Generator], str],
        rng: np.random.Generator,
    ) -> list[bool]:
        right = []
        for first in range(0, len(rows), _TEXTS_PER_REQUEST):
            part = rows[first : first + _TEXTS_PER_REQUEST]
            answer = client.post("/v1/classify", json={"texts": part["text"].tolist()}).raise_for_status().json()
            for prediction, label in zip(answer["predictions"], part["label"], strict=True):
                right.append(prediction["label"] == label)
                if rng.random() < labeled:
                    feedback = {
                        "prediction_id": prediction["id"],
                        "label": spoil(label, rng),
                        "source": "annotator",
                    }
                    client.post("/v1/feedback", json=feedback).raise_for_status()
        return right
