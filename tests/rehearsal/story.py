"""What happened in a rehearsal, told as one HTML page that needs nothing beside it."""

import base64
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from html import unescape
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader
from markdown_it import MarkdownIt
from markupsafe import Markup
from matplotlib import dates
from matplotlib import pyplot as plt

Kind = Literal["work", "good", "bad", "person"]
_MARKDOWN = MarkdownIt().enable("table")
_MAX_LINES = 120


@dataclass(frozen=True)
class Page:
    """A page as it looked at that moment."""

    title: str
    html: str
    open: bool = False


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        date: by the calendar of the rehearsal.
        seconds: that it took.
        kind: how it is marked.
        title, text: for the reader; the text is Markdown.
        output: lines of a workflow.
        pages: what people saw then.
        mark: a word for the plot; empty where it is not marked there.
    """

    date: datetime
    seconds: int
    kind: Kind
    title: str
    text: str = ""
    output: str = ""
    pages: list[Page] = field(default_factory=list)
    mark: str = ""


class Story:
    """Collects events, prints each as it comes, and writes the page.

    Args:
        where: on what it ran, in a sentence.
        limits: what it can't show, as Markdown.
    """

    def __init__(self, where: str, limits: str) -> None:
        self._where, self._limits = where, limits
        self.events: list[Event] = []
        self._start = self._last = time.monotonic()

    def tell(self, date: datetime, kind: Kind, title: str, text: str = "", **more: object) -> None:
        """Add what happened since the last event."""
        now = time.monotonic()
        event = Event(date, round(now - self._last), kind, title, text, **more)  # type: ignore[arg-type]
        self._last = now
        self.events.append(event)
        elapsed = round(now - self._start)
        print(f"[{elapsed // 60:2}:{elapsed % 60:02}] {date:%b %d}  {title}", flush=True)

    def write(self, path: Path, accuracy: list[tuple[datetime, float]]) -> None:
        """Write the page.

        Args:
            path: of the HTML file.
            accuracy: of the answers, by day.
        """
        environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
        environment.filters["markdown"] = lambda text: Markup(_MARKDOWN.render(text))  # noqa: S704
        html = environment.get_template("story.html").render(
            where=self._where,
            events=self.events,
            minutes=f"{(self._last - self._start) / 60:.1f}",
            weeks=round((self.events[-1].date - self.events[0].date).days / 7),
            plot=_to_uri("image/svg+xml", self._plot(accuracy)),
            limits=self._limits,
        )
        path.write_text(html, encoding="utf-8")

    def _plot(self, accuracy: list[tuple[datetime, float]]) -> bytes:
        """Accuracy over time, with the moments that matter."""
        figure, axis = plt.subplots(figsize=(11, 3.6), layout="constrained")
        axis.plot(*zip(*accuracy, strict=True), ".-", color="#2f7d32")
        days: dict[datetime, list[str]] = {}
        for event in self.events:
            if event.mark:
                days.setdefault(event.date.replace(hour=0, minute=0, second=0, microsecond=0), []).append(event.mark)
        for number, (day, marks) in enumerate(days.items()):
            axis.axvline(day, color="#59636e", linewidth=1, linestyle=":")
            text = " → ".join(marks)
            axis.text(day, 1.02 + 0.07 * (number % 2), text, transform=axis.get_xaxis_transform(), fontsize=9)
        axis.set_ylabel("accuracy of the day's answers")
        axis.set_ylim(0, 1)
        axis.xaxis.set_major_formatter(dates.DateFormatter("%b %d"))
        axis.grid(alpha=0.3)
        image = io.BytesIO()
        figure.savefig(image, format="svg")
        plt.close(figure)
        return image.getvalue()


def capture(title: str, show: Callable[[str], tuple[int, str, bytes] | None], path: str, open: bool = False) -> Page:
    """Keep a page with its pictures.

    Args:
        title: for the reader.
        show: gives status, content type and body at a path.
        path: of the page.
        open: whether it is unfolded at once.
    """

    def inline(match: re.Match[str]) -> str:
        shown = show(urlsplit(unescape(match[1])).path)
        return f'src="{_to_uri(shown[1], shown[2])}"' if shown and shown[0] == 200 else match[0]

    shown = show(path)
    assert shown is not None, path
    assert shown[0] == 200, path
    return Page(title, re.sub(r'src="([^"]+)"', inline, shown[2].decode()), open)


def capture_file(title: str, file: Path, open: bool = False) -> Page:
    """Keep an HTML file that needs nothing beside it."""
    return Page(title, file.read_text(encoding="utf-8"), open)


def tail(output: str) -> str:
    """What the steps of a workflow printed, without act's own lines."""
    lines = [line.rstrip() for line in output.splitlines() if "  | " in line or "Summary - " in line]
    texts = [re.sub(r"^\[[^\]]*\]\s*(\|\s?)?", "", line) for line in lines]
    return "\n".join(texts[-_MAX_LINES:])


def _to_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
