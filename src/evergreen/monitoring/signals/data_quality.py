"""Do the texts arrive as they were written?"""

import unicodedata
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, ClassVar

import numpy as np
from ftfy.badness import is_bad
from numpy.typing import NDArray
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from pydantic import Field
from scipy.stats import binomtest, fisher_exact

from evergreen.monitoring.signals.base import Measurement, Positive, Rule, Signal
from evergreen.monitoring.windows import Windows
from evergreen.params import Fraction

Mask = NDArray[np.bool_]

_CUT_OFF = "cut off at one length"
_CACHED_TEXTS = 1 << 15
"""Whose script and language are remembered: a replay compares the same test set again and again."""


class DataQuality(Signal):
    """Shares of texts that are empty, short, cut off at one length, garbled, longer than the model reads, or in a
    script or language that the test set does not have.

    Each share is compared with the test set's by Fisher's exact test; the kinds divide alpha among them. Cut off are
    texts of the length that is most in excess; the test allows for every length having been tried.

    Parameters:
        rule: `input`: another training does not mend broken input.
        min_increase: of a share, to be an alarm.
        min_characters: a text with fewer is empty.
        short_quantile: of the test set's lengths; what is shorter is short.
        min_language_fraction: of the test set's texts, for a language to be one of its own.
        min_language_probability: below it the language of a text is not known.

    Example:
        >>> find_script("Привет")
        'CYRILLIC'

    References:
        Fisher, The Design of Experiments, 1935. Garbled text is what ftfy takes for it (Speer, 2019); languages are
        told by py3langid (Lui and Baldwin, langid.py, ACL 2012; Barbaresi).
    """

    title: ClassVar[str] = "Data quality"

    rule: Rule = "input"
    min_increase: Positive
    min_characters: Annotated[int, Field(ge=1)]
    short_quantile: Fraction
    min_language_fraction: Fraction
    min_language_probability: Fraction

    def measure(self, windows: Windows, alpha: float) -> Measurement:
        """Compare the share of each kind of fault."""
        reference, current = windows.reference.known_texts, windows.current.known_texts
        if not current:
            return Measurement.unknown("The log keeps no texts to look at (EVERGREEN_LOG_TEXT).")
        kinds = self._find(reference, current, windows.classifier.find_cut)
        shares = {kind: (before.mean(), now.mean()) for kind, (before, now) in kinds.items()}
        p_values = {kind: _compare(before, now) for kind, (before, now) in kinds.items()}
        p_values[_CUT_OFF] *= max(map(len, [*reference, *current]), default=1) + 1
        alarms = [
            kind
            for kind, (before, now) in shares.items()
            if p_values[kind] <= alpha / len(kinds) and now - before >= self.min_increase
        ]
        worst = max(shares, key=lambda kind: (kind in alarms, shares[kind][1] - shares[kind][0]))
        now = kinds[worst][1]
        interval = binomtest(int(now.sum()), len(now)).proportion_ci(0.95, "wilson")
        named = alarms or [worst]
        p_value = min(1.0, p_values[worst] * len(kinds))
        described = ", ".join(f"{shares[kind][1]:.1%} {kind} (reference {shares[kind][0]:.1%})" for kind in named)
        return Measurement(
            status="alarm" if alarms else "ok",
            message=f"{self.title}: {described}; alarm from {self.min_increase:.0%} more; "
            f"p = {p_value:.2g}, alarm up to {alpha:.2g}.",
            value=float(shares[worst][1]),
            low=float(interval.low),
            high=float(interval.high),
            threshold=float(shares[worst][0] + self.min_increase),
            p_value=p_value,
            n_reference=len(reference),
            n_current=len(current),
            details={kind.replace(" ", "_"): float(share) for kind, (_, share) in shares.items()},
            evidence=[f"{kind}: “{current[i]}”" for kind in alarms for i in np.flatnonzero(kinds[kind][1])[:2]],
        )

    def _find(
        self, reference: list[str], current: list[str], find_cut: Callable[[list[str]], list[bool]]
    ) -> dict[str, tuple[Mask, Mask]]:
        """For each kind of fault, which texts of both windows have it."""
        shortest = np.quantile([len(text) for text in reference], self.short_quantile)
        limit = _find_limit(reference, current)
        tests: dict[str, Callable[[str], bool]] = {
            _CUT_OFF: lambda text: limit - 1 <= len(text) <= limit,
            "empty": lambda text: len(text) < self.min_characters,
            "short": lambda text: self.min_characters <= len(text) < shortest,
            "garbled": lambda text: "\ufffd" in text or bool(is_bad(text)),
        }
        masks = {
            kind: (np.array(list(map(test, reference))), np.array(list(map(test, current))))
            for kind, test in tests.items()
        }
        windows = reference, current
        masks["in an unknown script"] = self._find_new([list(map(find_script, texts)) for texts in windows])
        masks["too long"] = np.array(find_cut(reference)), np.array(find_cut(current))
        masks["in a new language"] = self._find_new([list(map(self._find_language, texts)) for texts in windows])
        return masks

    def _find_new(self, names: list[list[str]]) -> tuple[Mask, Mask]:
        """Which texts of both windows have a script or language that few of the first window have; "" is unknown."""
        own = {name for name, share in _count(names[0]) if share >= self.min_language_fraction} | {""}
        before, now = (np.array([name not in own for name in window]) for window in names)
        return before, now

    def _find_language(self, text: str) -> str:
        """The text's language, or nothing where it can't be told."""
        name, probability = _identify_language(text)
        return name if probability >= self.min_language_probability else ""


def _find_limit(reference: list[str], current: list[str]) -> int:
    """The length that is most in excess, with the one before it: cleaning takes a space from the end."""
    size = max(map(len, [*reference, *current])) + 1
    before, now = (np.bincount(list(map(len, texts)), minlength=size) / len(texts) for texts in (reference, current))
    excess = now - before
    return int((excess + np.append(0, excess[:-1])).argmax())


@lru_cache(maxsize=_CACHED_TEXTS)
def find_script(text: str) -> str:
    """The script of most of a text's letters, as Unicode names it; nothing where it has no letters."""
    scripts = Counter(script for script in map(_get_script, text) if script)
    return scripts.most_common(1)[0][0] if scripts else ""


@lru_cache(maxsize=4096)
def _get_script(character: str) -> str:
    return unicodedata.name(character, "").split(" ")[0] if character.isalpha() else ""


@lru_cache(maxsize=_CACHED_TEXTS)
def _identify_language(text: str) -> tuple[str, float]:
    name, probability = _get_identifier().classify(text)
    return str(name), float(probability)


@lru_cache(maxsize=1)
def _get_identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def _count(names: list[str]) -> list[tuple[str, float]]:
    counts = Counter(names)
    return [(name, count / counts.total()) for name, count in counts.items()]


def _compare(before: Mask, now: Mask) -> float:
    table = [[now.sum(), (~now).sum()], [before.sum(), (~before).sum()]]
    return float(fisher_exact(table, alternative="greater").pvalue)
