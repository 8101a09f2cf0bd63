"""Do two samples come from one distribution, and if not, how far apart are they? p-values that are true at any size.

Where both samples come from one distribution, any division of them all into two groups of these sizes is as likely as
the one that was observed. So a p-value is the share of random divisions that differ at least as much. Divisions are
drawn until enough of them do (Besag and Clifford, Sequential Monte Carlo p-values, Biometrika 1991): windows that are
alike take a few dozen, and only a real difference takes them all.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergreen.errors import EvergreenError
from evergreen.metrics import Estimate

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

_DIVISIONS_AT_A_TIME = 100
_ENOUGH = 50
"""Divisions that differ as much, after which the p-value is known well enough."""
_SCALES = (0.5, 1.0)
"""Of the kernels' widths: near the mean distance for shifts of all texts, below it for a new group among them."""
_RESAMPLES = 200
_INTERVAL = (2.5, 97.5)


class SampleError(EvergreenError):
    """Two samples can't be compared; the message says why."""


@dataclass(frozen=True)
class Comparison:
    """How much two samples differ.

    Attributes:
        distance: 0 where they are alike, with its 95% bootstrap interval; the function that made it says in what unit.
        p_value: how often samples of one distribution differ at least as much, above 0, at most 1.
        n_reference: rows of the reference sample.
        n_current: rows of the current one.
    """

    distance: Estimate
    p_value: float
    n_reference: int
    n_current: int


def compare_embeddings(
    reference: Floats,
    current: Floats,
    *,
    seed: int,
    strata: tuple[Sequence[str], Sequence[str]] | None = None,
    n_permutations: int = 999,
    n_features: int = 512,
) -> Comparison:
    """Maximum mean discrepancy (MMD) between two samples of vectors, of Gaussian kernels.

    Kernels by random Fourier features (Rahimi and Recht, 2007), so that time and memory grow with the rows, not with
    their square; the discrepancy is that of Gretton et al., A Kernel Two-Sample Test (JMLR 2012). The features depend
    on all rows together only, so the p-value is exact. The distance is the MMD, less what chance alone makes of it:
    at most the square root of 2.

    Args:
        reference: shape [rows, dimensions].
        current: shape [rows, dimensions].
        seed: of the features and the divisions; the same samples and seed give the same result.
        strata: the group of each row of both samples; rows are compared, and divided, within their group, so that
            another mix of the groups alone is no difference. Groups that only one sample has do not count.
        n_permutations: random divisions at most; the smallest p-value is 1 / (n_permutations + 1).
        n_features: more of them see finer differences, and cost more.

    Raises:
        SampleError: when a sample is empty, their dimensions differ, or a value is not finite.
    """
    _check_vectors(reference, current)
    rng = np.random.default_rng(seed)
    features = _map_to_features(np.concatenate([reference, current]), rng, n_features)
    pairs = _pair_groups(features, len(reference), strata)
    if not pairs:
        return Comparison(Estimate(value=0.0, low=0.0, high=0.0), 1.0, len(reference), len(current))
    n_rows = sum(pair.n_rows for pair in pairs)

    def combine(values: Iterable[Doubles]) -> Doubles:
        return np.asarray(sum(pair.n_rows / n_rows * value for pair, value in zip(pairs, values, strict=True)))

    observed = float(combine(pair.measure(pair.current.sum(0)) for pair in pairs))
    divisions = zip(*(pair.permute(rng, n_permutations) for pair in pairs), strict=True)
    p_value, by_chance = _estimate_p_value(observed, map(combine, divisions))
    # A bootstrap sample differs from the observed one by as much again as chance made of that.
    resampled = combine([pair.resample(rng) for pair in pairs]) - 2 * by_chance
    low, high = np.sqrt(np.percentile(resampled, _INTERVAL).clip(0))
    value = float(np.sqrt(max(0.0, observed - by_chance)))
    distance = Estimate(value=value, low=min(float(low), value), high=max(float(high), value))
    return Comparison(distance, p_value, len(reference), len(current))


def compare_categories(
    reference: Sequence[str], current: Sequence[str], *, seed: int, n_permutations: int = 9999
) -> Comparison:
    """Pearson's chi-squared between two samples of categories, its p-value by permutation, not from the table.

    The distance is the total variation: the share of rows that would have to change their category.

    Args:
        reference: a category a row.
        current: a category a row.
        seed: of the divisions.
        n_permutations: random divisions at most.

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

    def measure(counts: NDArray[np.integer]) -> Doubles:
        return np.asarray((weight * (counts - expected) ** 2).sum(-1))

    rng = np.random.default_rng(seed)
    counts = np.bincount(codes[n_reference:], minlength=len(categories))
    divisions = (
        measure(rng.multivariate_hypergeometric(totals, n_current, size)) for size in _split_count(n_permutations)
    )
    p_value, _ = _estimate_p_value(float(measure(counts)), divisions)
    shares = (totals - counts) / n_reference, counts / n_current
    value = float(np.abs(shares[0] - shares[1]).sum() / 2)
    drawn = [
        rng.multinomial(n, share, _RESAMPLES) / n for n, share in zip((n_reference, n_current), shares, strict=True)
    ]
    distance = _bound(value, np.abs(drawn[0] - drawn[1]).sum(1) / 2)
    return Comparison(distance, p_value, n_reference, n_current)


def compare_numbers(
    reference: NDArray[np.floating],
    current: NDArray[np.floating],
    *,
    seed: int,
    strata: tuple[Sequence[str], Sequence[str]] | None = None,
    n_permutations: int = 9999,
) -> Comparison:
    """Kolmogorov and Smirnov's largest difference between the distributions of two samples of numbers.

    Args:
        reference: shape [rows].
        current: shape [rows].
        seed: of the divisions.
        strata: as for `compare_embeddings`; both samples are weighted to the mix of the groups in both together.
        n_permutations: random divisions at most.

    Raises:
        SampleError: when a sample is empty.
    """
    _check_sizes(len(reference), len(current))
    n_reference, n_current = len(reference), len(current)
    pooled = np.concatenate([reference, current])
    order = np.argsort(pooled, kind="stable")
    is_current = (np.arange(len(pooled)) >= n_reference)[order]
    groups = [
        rows
        for rows in _find_groups(len(pooled), strata, order)
        if is_current[rows].any() and not is_current[rows].all()
    ]
    if not groups:
        return Comparison(Estimate(value=0.0, low=0.0, high=0.0), 1.0, n_reference, n_current)
    ordered = pooled[order]
    # Equal numbers count together: only after the last of them may the distributions be compared.
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    n_rows = sum(map(len, groups))

    def measure(of_reference: Floats, of_current: Floats) -> Doubles:
        """From how often each row, in order, is in either sample."""
        steps = np.zeros_like(of_current)
        for rows in groups:
            weight, members = np.float32(len(rows) / n_rows), is_current[rows]
            steps[..., rows] = of_current[..., rows] * (weight / members.sum())
            steps[..., rows] -= of_reference[..., rows] * (weight / (~members).sum())
        return np.asarray(np.abs(np.cumsum(steps, axis=-1)[..., ends]).max(-1), np.float64)

    rng = np.random.default_rng(seed)
    members = is_current.astype(np.float32)
    observed = float(measure(1 - members, members))

    def divide() -> Iterator[Doubles]:
        parts = zip(
            *(_divide(rng, len(rows), int(is_current[rows].sum()), n_permutations) for rows in groups), strict=True
        )
        for drawn in parts:
            division = np.zeros((len(drawn[0]), len(pooled)), np.float32)
            for rows, part in zip(groups, drawn, strict=True):
                division[:, rows] = part
            yield measure(1 - division, division)

    p_value, _ = _estimate_p_value(observed, divide())
    resampled = []
    for _ in range(_RESAMPLES):
        drawn = np.zeros((2, len(pooled)), np.float32)
        for rows in groups:
            for i, own in enumerate((rows[~is_current[rows]], rows[is_current[rows]])):
                drawn[i] += np.bincount(rng.choice(own, len(own)), minlength=len(pooled))
        resampled.append(measure(drawn[0], drawn[1]))
    return Comparison(_bound(observed, np.array(resampled)), p_value, n_reference, n_current)


def compare_means(
    reference: NDArray[np.floating], current: NDArray[np.floating], *, seed: int, n_permutations: int = 9999
) -> Comparison:
    """Is the current mean lower? The distance is by how much, negative where it is higher.

    Args:
        reference: shape [rows].
        current: shape [rows].
        seed: of the divisions.
        n_permutations: random divisions at most.

    Raises:
        SampleError: when a sample is empty.
    """
    _check_sizes(len(reference), len(current))
    n_reference, n_current = len(reference), len(current)
    pooled = np.concatenate([reference, current]).astype(np.float32)
    center = pooled.mean()
    pooled -= center  # the sum over one group is minus that over the other

    def measure(sums: NDArray[np.floating]) -> Doubles:
        return -np.asarray(sums, np.float64) * (1 / n_current + 1 / n_reference)

    rng = np.random.default_rng(seed)
    observed = float(measure(pooled[n_reference:].sum()))
    divisions = (measure(members @ pooled) for members in _divide(rng, len(pooled), n_current, n_permutations))
    p_value, _ = _estimate_p_value(observed, divisions)
    groups = pooled[:n_reference], pooled[n_reference:]
    means = [[rng.choice(group, len(group)).mean() for _ in range(_RESAMPLES)] for group in groups]
    distance = _bound(observed, np.array(means[0]) - np.array(means[1]))
    return Comparison(distance, p_value, n_reference, n_current)


@dataclass(frozen=True)
class _Pair:
    """The features of one group's rows in both samples, less their mean: then the sum of one tells that of the other.

    Attributes:
        reference, current: shape [rows, features].
    """

    reference: Floats
    current: Floats

    @property
    def n_rows(self) -> int:
        return len(self.reference) + len(self.current)

    def measure(self, sums: NDArray[np.floating]) -> Doubles:
        """Squared distance of the samples' means, given the sum over the current one."""
        difference = sums * (1 / len(self.current) + 1 / len(self.reference))
        return np.asarray((difference.astype(np.float64) ** 2).sum(-1))

    def permute(self, rng: np.random.Generator, n_permutations: int) -> Iterator[Doubles]:
        features = np.concatenate([self.reference, self.current])
        for members in _divide(rng, len(features), len(self.current), n_permutations):
            yield self.measure(members @ features)

    def resample(self, rng: np.random.Generator) -> Doubles:
        """Squared distances of the means of bootstrap samples, shape [resamples]."""
        means = []
        for rows in (self.reference, self.current):
            counts = [
                np.bincount(rng.integers(0, len(rows), len(rows)), minlength=len(rows)) for _ in range(_RESAMPLES)
            ]
            means.append(np.array(counts, np.float32) @ rows / len(rows))
        return np.asarray(((means[0] - means[1]).astype(np.float64) ** 2).sum(-1))


def _pair_groups(features: Floats, n_reference: int, strata: tuple[Sequence[str], Sequence[str]] | None) -> list[_Pair]:
    pairs = []
    for rows in _find_groups(len(features), strata, np.arange(len(features))):
        members = features[rows] - features[rows].mean(0)
        pair = _Pair(members[rows < n_reference], members[rows >= n_reference])
        if len(pair.reference) and len(pair.current):
            pairs.append(pair)
    return pairs


def _find_groups(
    n_rows: int, strata: tuple[Sequence[str], Sequence[str]] | None, order: NDArray[np.intp]
) -> list[NDArray[np.intp]]:
    """Positions, in the given order of both samples' rows, of each group."""
    if strata is None:
        return [np.arange(n_rows)]
    names = np.array([*strata[0], *strata[1]])[order]
    return [np.flatnonzero(names == name) for name in np.unique(names)]


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


def _split_count(total: int) -> Iterator[int]:
    for first in range(0, total, _DIVISIONS_AT_A_TIME):
        yield min(_DIVISIONS_AT_A_TIME, total - first)


def _divide(rng: np.random.Generator, n_rows: int, n_members: int, n_permutations: int) -> Iterator[Floats]:
    """Random groups as rows of ones and zeros, some at a time."""
    group = np.zeros(n_rows, np.float32)
    group[:n_members] = 1
    for size in _split_count(n_permutations):
        yield rng.permuted(np.tile(group, (size, 1)), axis=1)


def _bound(value: float, resampled: Doubles) -> Estimate:
    low, high = np.percentile(resampled, _INTERVAL)
    return Estimate(value=value, low=min(float(low), value), high=max(float(high), value))


def _estimate_p_value(observed: float, divisions: Iterable[Doubles]) -> tuple[float, float]:
    """The p-value, and the mean over the divisions that were drawn for it.

    The observed division counts as one of them: so the p-value is never 0, and true for any number of divisions.
    """
    n_drawn, n_as_large, total = 0, 0, 0.0
    for values in divisions:
        as_large = values >= observed * (1 - 1e-6) - 1e-15  # equal but for rounding
        total += float(values.sum())
        n_drawn += len(values)
        if n_as_large + as_large.sum() >= _ENOUGH:
            position = np.flatnonzero(as_large)[_ENOUGH - n_as_large - 1]
            return _ENOUGH / (n_drawn - len(values) + int(position) + 1), total / n_drawn
        n_as_large += int(as_large.sum())
    return (1 + n_as_large) / (1 + n_drawn), total / max(n_drawn, 1)
