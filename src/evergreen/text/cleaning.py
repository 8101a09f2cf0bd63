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
_CONTROL = {code: None for code in [*range(0x09), *range(0x0E, 0x20), 0x7F]} | {
    ord(char): None for char in "\u200b\u2060\ufeff\u00ad"
}
_NESTED_AMPERSAND = re.compile(r"&(?:(?:amp|AMP|#0*38|#[xX]0*26);)+")
_LINK = re.compile(r"\b(?:https?://|www\.)\S+", re.IGNORECASE)
_MAIL = re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+")
_SPACE = re.compile(r"\s+")


def cleaner(public_handles: Iterable[str] = ()) -> Callable[[str], str]:
    """Make the cleaning function for texts in which some accounts (of companies) are named openly.

    The function is idempotent: cleaning a clean text changes nothing.
    """
    kept = "|".join([*map(re.escape, public_handles), "user", "mail"])
    handle = re.compile(rf"@(?!(?:{kept})\b)\w+", re.IGNORECASE)

    def once(text: str) -> str:
        # Collapsed first, so that "&amp;amp;amp;…" of any length costs one pass.
        text = html.unescape(_NESTED_AMPERSAND.sub("&", text))
        text = text.translate(_C1).translate(_CONTROL)
        text = unicodedata.normalize("NFC", text.encode("utf-8", "ignore").decode())
        text = _LINK.sub(LINK, text)
        text = _MAIL.sub(MAIL, text)
        text = handle.sub(USER, text)
        return _SPACE.sub(" ", text).strip()

    def clean(text: str) -> str:
        # What one pass uncovers (an escaped handle, say) the next one cleans; two or three settle a text.
        while (cleaned := once(text)) != text:
            text = cleaned
        return text

    return clean


def normalised(text: str) -> str:
    """Fold a clean text to the form in which two texts count as duplicates: case, width and spaces aside."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()
