"""Is the champion sure of its answers in another way than before?"""

import math
from typing import ClassVar

from evergreen.monitoring.signals.base import Measurement, Positive, Signal, judge_comparison
from evergreen.monitoring.two_sample import compare_numbers
from evergreen.monitoring.windows import Windows


class ConfidenceDrift(Signal):
    """Largest difference between the distributions of the predicted label's probability, by a permutation test.

    Within the predicted classes, as for `embedding_drift`: some classes are easier than others.

    Parameters:
        min_distance: of the distribution functions, from 0 to 1.

    Example:
        >>> ConfidenceDrift(min_distance=0.1, weight=0.5).weight
        0.5

    References:
        Kolmogorov (1933) and Smirnov (1948) for the distance; the p-value is by permutation, true with ties as well.
    """

    title: ClassVar[str] = "Confidence"

    min_distance: Positive

    def measure(self, windows: Windows, alpha: float) -> Measurement:
        """Compare the confidences."""
        reference, current = windows.reference.confidence, windows.current.confidence
        comparison = compare_numbers(
            reference,
            current,
            seed=windows.seed,
            strata=(windows.reference.y_pred, windows.current.y_pred),
            n_permutations=max(999, math.ceil(2 / alpha)),
        )
        evidence = [f"mean confidence: {reference.mean():.3f} in the reference, {current.mean():.3f} now"]
        details = {"mean_reference": float(reference.mean()), "mean_current": float(current.mean())}
        measurement = judge_comparison(comparison, self.min_distance, alpha, self.title)
        return measurement.model_copy(update={"evidence": evidence, "details": details})
