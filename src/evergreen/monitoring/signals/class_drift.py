"""Does the champion predict its classes in another mix?"""

import math
from collections import Counter
from typing import ClassVar

from evergreen.monitoring.signals.base import Measurement, Positive, Signal, judge_comparison
from evergreen.monitoring.two_sample import compare_categories
from evergreen.monitoring.windows import Windows


class ClassDrift(Signal):
    """Share of predictions that would have to change their class, by a permutation test on chi-squared.

    Parameters:
        min_distance: total variation, from 0 to 1.

    Example:
        >>> ClassDrift(min_distance=0.1).title
        'Predicted classes'

    References:
        Lipton, Wang and Smola, Detecting and Correcting for Label Shift with Black Box Predictors, ICML 2018: a change
        of the classes' mix shows in the predictions.
    """

    title: ClassVar[str] = "Predicted classes"

    min_distance: Positive

    def measure(self, windows: Windows, alpha: float) -> Measurement:
        """Compare how often each class is predicted."""
        reference, current = windows.reference.y_pred, windows.current.y_pred
        comparison = compare_categories(
            reference, current, seed=windows.seed, n_permutations=max(9999, math.ceil(2 / alpha))
        )
        before, now = Counter(reference), Counter(current)
        shares = {
            label: (before[label] / len(reference), now[label] / len(current)) for label in windows.current.labels
        }
        moved = sorted(shares.items(), key=lambda item: -abs(item[1][1] - item[1][0]))
        evidence = [f"{label}: {old:.1%} of the reference, {new:.1%} now" for label, (old, new) in moved[:5]]
        details = {f"share_{label}": new for label, (_, new) in shares.items()}
        measurement = judge_comparison(comparison, self.min_distance, alpha, self.title)
        return measurement.model_copy(update={"evidence": evidence, "details": details})
