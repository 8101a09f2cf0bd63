"""User text in Markdown: it can't format, mention, refer, or end what it stands in."""

import html
import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

MAX_LINE = 300
# Line and page separators, and what turns the direction of writing, would move text out of its line.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")
_JOINER = "\u2060"
"""Invisible; after @ or # it leaves no mention and no reference."""


def clean_line(text: str, limit: int = MAX_LINE) -> str:
    """Make one printable line of a text, cut at a limit."""
    line = " ".join(_CONTROL.sub(" ", text).split()).encode("utf-8", "replace").decode()
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def fence(lines: list[str]) -> str:
    """Put lines in a code block that nothing in them can end."""
    cleaned = [clean_line(line) for line in lines]
    longest = max((len(run) for line in cleaned for run in re.findall(r"`+|~+", line)), default=0)
    ticks = "`" * max(3, longest + 1)
    return "\n".join([f"{ticks}text", *cleaned, ticks])


def quote_code(text: str) -> str:
    """Put a text in a code span that nothing in it can end."""
    line = clean_line(text)
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{padding}{line}{padding}{ticks}" if line else ""


def escape_markdown(text: str) -> str:
    """Keep a line's words, but no formatting, mention, reference or HTML; it may link."""
    line = re.sub(r"([\\`*_{}\[\]|~])", r"\\\1", clean_line(text, 1000))
    # Entities, since a backslash does not count where HTML surrounds it; "&commat;all" would be a mention otherwise.
    return break_references(line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"))


def unescape_markdown(line: str) -> str:
    """Show what `escape_markdown` made where nothing renders it, as in a mail; HTML has to be escaped again."""
    return html.unescape(re.sub(r"\\([\\`*_{}\[\]|~])", r"\1", line))


def break_references(text: str) -> str:
    """Keep @name and #1 from becoming a mention and a reference, invisibly."""
    return re.sub(r"(@|#|GH-)(?=\w)", rf"\1{_JOINER}", text, flags=re.IGNORECASE)


def make_environment(folder: Path) -> Environment:
    """Templates of a folder, with filters for user text: code, escape_markdown, fence, plain; and day for times."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(["html"]),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "code": quote_code,
        "escape_markdown": escape_markdown,
        "fence": fence,
        "plain": lambda text: break_references(clean_line(text)).replace("<", "‹").replace(">", "›"),
        "day": lambda time: f"{time:%-d %B %Y, %H:%M} UTC",
    }
    return environment
