from typing import Protocol

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, chi2_contingency, ks_2samp, kstest, ttest_ind

from evergreen.metrics import Estimate
from evergreen.monitoring.two_sample import (
    Comparison,
    SampleError,
    compare_categories,
    compare_embeddings,
    compare_means,
    compare_numbers,
)

REPEATS = 400
NOTHING = Estimate(value=0.0, low=0.0, high=0.0)


class Compare(Protocol):
    def __call__(
        self, reference: NDArray[np.floating], current: NDArray[np.floating], *, seed: int, n_permutations: int
    ) -> Comparison: ...


def draw(rows: int, seed: int, shift: float = 0.0, scale: float = 1.0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(rows, 8)) * scale + shift).astype(np.float32)


def count_alarms(p_values: list[float], level: float) -> int:
    return sum(p <= level for p in p_values)


@pytest.mark.parametrize(("n_reference", "n_current"), [(40, 40), (200, 7), (5, 60)])
def test_p_values_of_equal_distributions_are_uniform(n_reference: int, n_current: int) -> None:
    p_values = [
        compare_embeddings(
            draw(n_reference, 2 * i), draw(n_current, 2 * i + 1), seed=i, n_permutations=99, n_features=32
        ).p_value
        for i in range(REPEATS)
    ]
    assert kstest(p_values, "uniform").pvalue > 1e-3
    for level in (0.01, 0.05, 0.2):
        assert count_alarms(p_values, level) <= binom.isf(1e-4, REPEATS, level)


@pytest.mark.parametrize("compare", [compare_numbers, compare_means], ids=["distributions", "means"])
@pytest.mark.parametrize("digits", [8, 1], ids=["distinct", "with ties"])
def test_p_values_of_equal_numbers_are_never_too_small(compare: Compare, digits: int) -> None:
    p_values = []
    for i in range(REPEATS):
        numbers = np.random.default_rng(i).beta(5, 1, 70).round(digits)
        p_values.append(compare(numbers[:50], numbers[50:], seed=i, n_permutations=199).p_value)
    for level in (0.01, 0.05, 0.2):
        assert count_alarms(p_values, level) <= binom.isf(1e-4, REPEATS, level)
    if digits == 8:
        assert kstest(p_values, "uniform").pvalue > 1e-3


def test_numbers_agree_with_the_library() -> None:
    rng = np.random.default_rng(3)
    reference, current = rng.beta(5, 1, 300), rng.beta(4, 1, 200)
    library = ks_2samp(reference, current, method="exact")
    result = compare_numbers(reference, current, seed=0, n_permutations=9999)
    assert result.distance.value == pytest.approx(library.statistic, abs=1e-6)
    assert result.p_value == pytest.approx(library.pvalue, rel=0.3)
    by_mean = compare_means(reference, current, seed=0)
    assert by_mean.distance.value == pytest.approx(reference.mean() - current.mean(), abs=1e-6)
    assert by_mean.p_value == pytest.approx(ttest_ind(reference, current, alternative="greater").pvalue, rel=0.5)
    assert compare_means(current, reference, seed=0).p_value > 0.9


def test_another_mix_of_groups_is_no_difference_within_them() -> None:
    """Half of the rows from each of two groups, then nine tenths from one."""
    groups = {"a": draw(2000, 1), "b": draw(2000, 2, shift=2)}

    def mix(n_a: int, n_b: int, first: int) -> tuple[NDArray[np.float32], list[str]]:
        rows = np.concatenate([groups["a"][first : first + n_a], groups["b"][first : first + n_b]])
        return rows, ["a"] * n_a + ["b"] * n_b

    (reference, of_reference), (current, of_current) = mix(300, 300, 0), mix(540, 60, 1000)
    assert compare_embeddings(reference, current, seed=0).p_value == 1 / 1000
    within = compare_embeddings(reference, current, seed=0, strata=(of_reference, of_current))
    assert within.p_value > 0.01
    assert within.distance.value < 0.05
    shifted = compare_embeddings(reference, current + 0.5, seed=0, strata=(of_reference, of_current))
    assert shifted.p_value == 1 / 1000
    assert compare_embeddings(reference, current, seed=0, strata=(["a"] * 600, ["b"] * 600)).p_value == 1


def test_intervals_of_distances_cover() -> None:
    """The distances between whole populations, from samples of them."""
    rng = np.random.default_rng(0)
    covered = dict.fromkeys(["embeddings", "categories", "means"], 0)
    large = compare_embeddings(draw(20_000, 1), draw(20_000, 2, shift=0.3), seed=0, n_permutations=99).distance.value
    for i in range(100):
        distance = compare_embeddings(
            draw(200, 10 + 2 * i), draw(200, 11 + 2 * i, shift=0.3), seed=0, n_permutations=99
        ).distance
        covered["embeddings"] += distance.low <= large <= distance.high
        reference, current = rng.choice(["a", "b"], 300, p=[0.7, 0.3]), rng.choice(["a", "b"], 300, p=[0.5, 0.5])
        distance = compare_categories(reference, current, seed=i).distance
        covered["categories"] += distance.low <= 0.2 <= distance.high
        distance = compare_means(rng.normal(0.5, 0.1, 200), rng.normal(0.45, 0.1, 200), seed=i).distance
        covered["means"] += distance.low <= 0.05 <= distance.high
    assert min(covered.values()) >= 85, covered


def test_p_values_hold_for_texts_that_repeat() -> None:
    """Few distinct vectors, many ties: the p-value may be too large, never too small."""
    vectors = draw(3, 1)
    p_values = []
    for i in range(REPEATS):
        rows = np.random.default_rng(i).integers(0, 3, 60)
        p_values.append(compare_embeddings(vectors[rows[:40]], vectors[rows[40:]], seed=i, n_permutations=99).p_value)
    for level in (0.01, 0.05, 0.2):
        assert count_alarms(p_values, level) <= binom.isf(1e-4, REPEATS, level)


def test_categories_p_values_are_never_too_small() -> None:
    """Also where the table's chi-squared would be wrong: rare classes, small windows."""
    p_values = []
    for i in range(REPEATS):
        labels = np.random.default_rng(i).choice(["a", "b", "rare"], 45, p=[0.7, 0.28, 0.02])
        p_values.append(compare_categories(labels[:30], labels[30:], seed=i, n_permutations=199).p_value)
    for level in (0.01, 0.05, 0.2):
        assert count_alarms(p_values, level) <= binom.isf(1e-4, REPEATS, level)


@pytest.mark.parametrize(
    "current",
    [
        draw(300, 5, shift=0.3),
        draw(300, 5, scale=1.5),
        np.concatenate([draw(270, 5), draw(30, 6, shift=3)]),
    ],
    ids=["all shifted", "wider", "a new group"],
)
def test_change_is_seen(current: NDArray[np.float32]) -> None:
    assert compare_embeddings(draw(300, 4), current, seed=0).p_value == 1 / 1000


def test_categories_agree_with_the_table_for_large_windows() -> None:
    reference, current = ["a"] * 500 + ["b"] * 500, ["a"] * 460 + ["b"] * 540
    result = compare_categories(reference, current, seed=0, n_permutations=99_999)
    table = chi2_contingency([[500, 500], [460, 540]], correction=False)
    assert result.p_value == pytest.approx(table.pvalue, abs=0.02)
    assert result.distance.value == pytest.approx(0.04)  # 40 of 1000 rows would have to change
    assert result.distance.low < 0.04 < result.distance.high


def test_category_that_only_one_window_has() -> None:
    assert compare_categories(["a"] * 50, ["a"] * 40 + ["new"] * 10, seed=0).p_value < 0.01
    assert compare_categories(["a"] * 50, ["a"] * 50, seed=0).p_value == 1


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 1000), st.floats(0.01, 100))
def test_result_is_repeatable_and_the_unit_is_no_matter(n: int, m: int, seed: int, factor: float) -> None:
    reference, current = draw(n, seed), draw(m, seed + 1, shift=1)

    def compare(unit: float) -> Comparison:
        scaled = [(sample * unit).astype(np.float32) for sample in (reference, current)]
        return compare_embeddings(*scaled, seed=seed, n_permutations=19, n_features=16)

    once, again, scaled = compare(1), compare(1), compare(factor)
    assert once == again
    assert scaled.distance.value == pytest.approx(once.distance.value, rel=1e-2, abs=1e-2)
    assert 1 / 20 <= once.p_value <= 1
    assert (once.n_reference, once.n_current) == (n, m)


def test_equal_vectors_are_no_change() -> None:
    same = np.ones((10, 4), np.float32)
    assert compare_embeddings(same, same, seed=0, n_permutations=19) == Comparison(NOTHING, 1.0, 10, 10)


@pytest.mark.parametrize(
    ("reference", "current", "words"),
    [
        (np.zeros((0, 4)), np.zeros((3, 4)), "the reference window is empty"),
        (np.zeros((3, 4)), np.zeros((0, 4)), "the current window is empty"),
        (np.zeros((3, 4)), np.zeros((3, 5)), "not of one model"),
        (np.zeros((3, 4)), np.full((3, 4), np.nan), "current window is not finite"),
    ],
    ids=["no reference", "no current", "two models", "not finite"],
)
def test_samples_of_no_use_are_refused(
    reference: NDArray[np.float32], current: NDArray[np.float32], words: str
) -> None:
    with pytest.raises(SampleError, match=words):
        compare_embeddings(reference, current, seed=0)


def test_categories_of_an_empty_window_are_refused() -> None:
    with pytest.raises(SampleError, match="current window is empty"):
        compare_categories(["a"], [], seed=0)
