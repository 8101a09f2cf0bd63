"""Do two samples come from one distribution? Tests by permutation, whose p-values are true at any size.

Where both samples come from one distribution, any division of them all into two groups of these sizes is as likely as
the one that was seen. So a p-value is the share of random divisions that differ at least as much.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergreen.errors import EvergreenError

Floats = NDArray[np.float32]

_DIVISIONS_AT_A_TIME = 100
_SCALES = (0.5, 1.0)
"""Of the kernels' widths: near the mean distance for shifts of all texts, below it for a new group among them."""


class SampleError(EvergreenError):
    """Two samples can't be compared; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """How much two samples differ.

    Attributes:
        statistic: 0 where they are alike; its size depends on the test and on the sizes of the samples.
        p_value: how often samples of one distribution differ at least as much, above 0, at most 1.
        n_reference: rows of the reference sample.
        n_current: rows of the current one.
    """

    statistic: float
    p_value: float
    n_reference: int
    n_current: int


def compare_embeddings(
    reference: Floats, current: Floats, *, seed: int, n_permutations: int = 999, n_features: int = 512
) -> Comparison:
    """Maximum mean discrepancy between two samples of vectors, of Gaussian kernels.

    Kernels by random Fourier features (Rahimi and Recht, 2007), so that time and memory grow with the rows, not with
    their square; the discrepancy is that of Gretton et al., A Kernel Two-Sample Test (JMLR 2012). The features depend
    on both samples together only, so the p-value is exact.

    Args:
        reference: shape [rows, dimensions].
        current: shape [rows, dimensions].
        seed: of the features and the divisions; the same samples and seed give the same result.
        n_permutations: random divisions; the smallest p-value is 1 / (n_permutations + 1).
        n_features: more of them see finer differences, and cost more.

    Raises:
        SampleError: when a sample is empty, their dimensions differ, or a value is not finite.
    """
    _check_vectors(reference, current)
    rng = np.random.default_rng(seed)
    pooled = np.concatenate([reference, current])
    features = _map_to_features(pooled, rng, n_features)
    features -= features.mean(0)  # then the mean of one group tells that of the other
    n_reference, n_current = len(reference), len(current)

    def measure(sums: NDArray[np.floating]) -> NDArray[np.float64]:
        """Squared distance of the groups' means, given the sum over the second."""
        difference = sums * (1 / n_current + 1 / n_reference)
        return np.asarray((difference.astype(np.float64) ** 2).sum(-1))

    seen = float(measure(features[n_reference:].sum(0)))
    permuted = np.concatenate(
        [measure(members @ features) for members in _divide(rng, len(pooled), n_current, n_permutations)]
    )
    return Comparison(seen, _compute_p_value(seen, permuted), n_reference, n_current)


def compare_categories(
    reference: Sequence[str], current: Sequence[str], *, seed: int, n_permutations: int = 9999
) -> Comparison:
    """Pearson's chi-squared between two samples of categories, its p-value by permutation, not from the table.

    Args:
        reference: a category a row.
        current: a category a row.
        seed: of the divisions.
        n_permutations: random divisions.

    Raises:
        SampleError: when a sample is empty.
    """
    _check_sizes(len(reference), len(current))
    categories, codes = np.unique([*reference, *current], return_inverse=True)
    totals = np.bincount(codes, minlength=len(categories))
    n_reference, n_current = len(reference), len(current)
    expected = totals * (n_current / len(codes))
    # Of the second group's counts alone: those of the first are what is left of the totals.
    weight = (1 + n_current / n_reference) / expected

    def measure(counts: NDArray[np.integer]) -> NDArray[np.float64]:
        return np.asarray((weight * (counts - expected) ** 2).sum(-1))

    seen = float(measure(np.bincount(codes[n_reference:], minlength=len(categories))))
    counts = np.random.default_rng(seed).multivariate_hypergeometric(totals, n_current, n_permutations)
    return Comparison(seen, _compute_p_value(seen, measure(counts)), n_reference, n_current)


def _check_sizes(n_reference: int, n_current: int) -> None:
    for name, size in (("reference", n_reference), ("current", n_current)):
        if not size:
            raise SampleError(f"the {name} window is empty. Widen it, or wait for more texts.")


def _check_vectors(reference: Floats, current: Floats) -> None:
    _check_sizes(len(reference), len(current))
    if reference.ndim != 2 or reference.shape[1:] != current.shape[1:]:
        raise SampleError(
            f"embeddings of shapes {reference.shape} and {current.shape} are not of one model. Compute both with one."
        )
    for name, sample in (("reference", reference), ("current", current)):
        if not np.isfinite(sample).all():
            raise SampleError(f"an embedding of the {name} window is not finite. Verify the bundle.")


def _map_to_features(pooled: Floats, rng: np.random.Generator, n_features: int) -> Floats:
    """Map rows to features whose products are near the kernels' values, shape [rows, n_features]."""
    centered = pooled - pooled.mean(0)
    # The mean squared distance of two rows: from all rows and without regard to their order.
    distance = np.sqrt(2 * (centered.astype(np.float64) ** 2).sum(1).mean())
    if not distance:
        return np.zeros((len(pooled), 1), np.float32)
    frequencies = rng.normal(size=(pooled.shape[1], n_features)).astype(np.float32)
    frequencies /= np.resize(_SCALES, n_features).astype(np.float32) * np.float32(distance)
    phases = rng.uniform(0, 2 * np.pi, n_features).astype(np.float32)
    features: Floats = np.cos(centered @ frequencies + phases) * np.float32(np.sqrt(2 / n_features))
    return features


def _divide(rng: np.random.Generator, n_rows: int, n_members: int, n_permutations: int) -> Iterator[Floats]:
    """Random groups as rows of ones and zeros, some at a time."""
    group = np.zeros(n_rows, np.float32)
    group[:n_members] = 1
    for first in range(0, n_permutations, _DIVISIONS_AT_A_TIME):
        size = min(_DIVISIONS_AT_A_TIME, n_permutations - first)
        yield rng.permuted(np.tile(group, (size, 1)), axis=1)


def _compute_p_value(seen: float, permuted: NDArray[np.float64]) -> float:
    """The seen division counts as one of them: so the p-value is never 0, and true for any number of divisions."""
    as_large = permuted >= seen * (1 - 1e-6)  # equal but for rounding
    return float((1 + as_large.sum()) / (1 + len(permuted)))
