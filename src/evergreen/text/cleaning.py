"""How a text is cleaned, in training and in production alike: no personal handle, link or address survives.

Plain Python, since the serving container runs it too.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterable

VERSION = 1
"""Written into each bundle; a bundle made with other rules is refused. Raise it with any change here."""

USER, LINK, MAIL = "@user", "http", "@mail"

# Crowd-sourced files say Latin-1 and mean Windows-1252, as browsers assume.
_C1 = {code: bytes([code]).decode("cp1252", "ignore") or None for code in range(0x80, 0xA0)}
_CONTROL = dict.fromkeys([*range(9), *range(14, 32), 127]) | {
    # Zero-width and direction marks, which some apps put between @ and the name.
    ord(char): None
    for char in "\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\u00ad"
}
_AT = {ord(char): "@" for char in "\uff20\ufe6b"}
_NESTED_AMPERSAND = re.compile(r"&(?:(?:amp|AMP|#0*38(?![0-9])|#[xX]0*26(?![0-9a-fA-F]));?)+")
_NUMBER = re.compile(r"&#0*([0-9]{1,8})[0-9]*")  # no character has more digits, and Python won't read thousands
_LINK = re.compile(r"(?:https?://|(?<![a-z])www\.)\S+", re.IGNORECASE)
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)+")  # possessive: one pass over any text
_SPACE = re.compile(r"\s+")
_DEEPEST = 8
"""Passes after which a text that still uncovers escapes loses them: nobody nests them that deep in good faith."""


def build_cleaner(public_handles: Iterable[str] = ()) -> Callable[[str], str]:
    """Make the cleaning function for texts in which some accounts (of companies) are named openly.

    The function is idempotent: cleaning a clean text changes nothing.
    """
    public = "|".join([*map(re.escape, public_handles), "user", "mail"])
    handle = re.compile(rf"@(?!(?:{public})\b)\w[\w\u0300-\u036f]*", re.IGNORECASE)

    def clean_once(text: str) -> str:
        # Collapsed first, so that "&amp;amp;amp;…" of any length costs one pass.
        text = html.unescape(_NUMBER.sub(r"&#\1", _NESTED_AMPERSAND.sub("&", text)))
        text = text.translate(_C1).translate(_CONTROL).translate(_AT)
        text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
        text = _LINK.sub(LINK, text)
        text = _MAIL.sub(MAIL, text)
        text = handle.sub(USER, text)
        return _SPACE.sub(" ", text).strip()

    def clean(text: str) -> str:
        # What one pass uncovers (an escaped handle, say) the next one cleans; two or three settle a text.
        passes = 0
        while (cleaned := clean_once(text)) != text:
            passes += 1
            text = cleaned.replace("&", " ") if passes == _DEEPEST else cleaned
        return text

    return clean


def normalize(text: str) -> str:
    """Fold a clean text to the form in which two texts count as duplicates: case, width and spaces aside."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
