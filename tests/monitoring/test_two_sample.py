import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import binom, chi2_contingency, kstest

from evergreen.monitoring.two_sample import Comparison, SampleError, compare_categories, compare_embeddings

REPEATS = 400


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
    assert result.statistic == pytest.approx(table.statistic)
    assert result.p_value == pytest.approx(table.pvalue, abs=0.01)


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
    assert scaled.statistic == pytest.approx(once.statistic, rel=1e-2, abs=1e-4)
    assert 1 / 20 <= once.p_value <= 1
    assert (once.n_reference, once.n_current) == (n, m)


def test_equal_vectors_are_no_change() -> None:
    same = np.ones((10, 4), np.float32)
    assert compare_embeddings(same, same, seed=0, n_permutations=19) == Comparison(0.0, 1.0, 10, 10)


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
