import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from evergreen.monitoring.confidence_sequence import estimate_fraction


@pytest.mark.parametrize("share", [0.03, 0.5, 0.85])
def test_true_share_is_hardly_ever_outside_at_any_look(share: float) -> None:
    """400 histories of 300 examples, looked at after each: the ordinary interval would be left in most of them."""
    alpha, histories, length = 0.1, 400, 300
    rng = np.random.default_rng(7)
    left = 0
    for _ in range(histories):
        counts = np.cumsum(rng.random(length) < share)
        left += any(
            not estimate.low <= share <= estimate.high
            for total in range(1, length + 1, 3)
            for estimate in [estimate_fraction(int(counts[total - 1]), total, alpha)]
        )
    assert left <= binom.isf(1e-3, histories, alpha)


@given(st.integers(0, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(1e-6, 0.5))
def test_interval_holds_the_share_and_its_ends_are_the_last_not_refuted(counts: tuple[int, int], alpha: float) -> None:
    successes, total = counts
    estimate = estimate_fraction(successes, total, alpha)
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    mirrored = estimate_fraction(total - successes, total, alpha)
    assert mirrored.low == pytest.approx(1 - estimate.high, abs=1e-9)
    wider = estimate_fraction(successes, total, alpha / 10)
    assert wider.low <= estimate.low + 1e-9
    assert wider.high >= estimate.high - 1e-9


def test_by_hand() -> None:
    """All of n right: p^n may not be less than alpha / (n + 1)."""
    n, alpha = 20, 0.05
    estimate = estimate_fraction(n, n, alpha)
    assert estimate.low == pytest.approx((alpha / (n + 1)) ** (1 / n))
    assert (estimate.value, estimate.high) == (1.0, 1.0)


def test_interval_narrows_to_about_twice_the_ordinary_one() -> None:
    estimates = [estimate_fraction(n, 2 * n, 0.05) for n in (10, 100, 1000, 10_000)]
    widths = [estimate.high - estimate.low for estimate in estimates]
    assert widths == sorted(widths, reverse=True)
    ordinary = 2 * 1.96 * math.sqrt(0.25 / 20_000)
    assert 1.5 * ordinary < widths[-1] < 2.5 * ordinary


def test_nothing_seen_says_nothing() -> None:
    estimate = estimate_fraction(0, 0, 0.05)
    assert (estimate.low, estimate.high) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "total", "alpha"), [(3, 2, 0.05), (-1, 2, 0.05), (1, 2, 0.0), (1, 2, 1.0)])
def test_impossible_counts_are_refused(successes: int, total: int, alpha: float) -> None:
    with pytest.raises(ValueError, match="not counts"):
        estimate_fraction(successes, total, alpha)
