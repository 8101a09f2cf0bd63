"""Which split a text belongs to: decided by a hash of the text, so that it never moves."""

import hashlib
from typing import Literal

from evergreen.text.cleaning import normalize

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def hash_text(text: str) -> int:
    """Hash a clean text, duplicates alike, to 64 bits."""
    return int.from_bytes(hashlib.blake2b(normalize(text).encode(), digest_size=8).digest(), "big")


def assign_split(text_hash: int, validation_size: float, test_size: float) -> Split:
    """Assign a text to train, validation or test by its hash, so that it never moves.

    Test takes the low end of the hash range, validation the next part: changing one size keeps most texts.
    """
    position = text_hash / 2**64
    if position < test_size:
        return "test"
    return "validation" if position < test_size + validation_size else "train"
