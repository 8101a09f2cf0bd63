"""How accurate is the champion now, where no labels tell?"""

import math
from typing import ClassVar

import numpy as np
from scipy.stats import norm

from evergreen.metrics import Estimate
from evergreen.monitoring.signals.base import Measurement, Positive, Signal
from evergreen.monitoring.two_sample import Floats, compare_means
from evergreen.monitoring.windows import LabeledSample, Window, Windows

_TWO_SIDED_95 = float(norm.isf(0.025))


class EstimatedPerformance(Signal):
    """Accuracy estimated from calibrated confidence (CBPE), with the share above a learned threshold (ATC) beside it.

    A calibrated model that is sure to 0.8 is right in 80% of such cases, so the mean confidence estimates accuracy, as
    long as the calibration holds. On other topics it holds less well: there both estimates are too high
    (docs/design-text.md has the errors that were measured). So the alarm asks whether the estimate is lower than for
    the test set, by a permutation test, and by enough to matter.

    Parameters:
        min_loss: of estimated accuracy, against the same estimate for the test set.

    Example:
        >>> EstimatedPerformance(min_loss=0.02).get_name()
        'estimated_performance'

    References:
        CBPE: Kivimäki, Białek, Nurminen and Kuberski, Confidence-based Estimators for Predictive Performance in Model
        Monitoring, 2024. ATC: Garg et al., Leveraging Unlabeled Data to Predict Out-of-Distribution Performance, 2022.
    """

    title: ClassVar[str] = "Estimated accuracy"

    min_loss: Positive

    def measure(self, windows: Windows, alpha: float) -> Measurement:
        """Compare the mean confidences, and give the estimates."""
        reference, current = windows.reference, windows.current
        comparison = compare_means(
            reference.confidence, current.confidence, seed=windows.seed, n_permutations=max(999, math.ceil(2 / alpha))
        )
        estimate, before = estimate_accuracy(current.confidence), estimate_accuracy(reference.confidence)
        atc = estimate_by_threshold(reference.confidence, windows.reference_labels, current.confidence)
        loss = comparison.distance
        is_alarm = comparison.p_value <= alpha and loss.value >= self.min_loss
        direction = "below" if loss.value > 0 else "above"
        message = (
            f"{self.title}: {estimate}, {abs(loss.value):.3f} {direction} the reference's {before.value:.3f}, "
            f"alarm from {self.min_loss:g}; p = {comparison.p_value:.2g}, alarm up to {alpha:.2g}."
        )
        return Measurement(
            status="alarm" if is_alarm else "ok",
            message=message,
            value=estimate.value,
            low=estimate.low,
            high=estimate.high,
            threshold=before.value - self.min_loss,
            p_value=comparison.p_value,
            n_reference=comparison.n_reference,
            n_current=comparison.n_current,
            details={"atc": atc, "macro_f1": estimate_macro_f1(current.y_proba), "reference": before.value},
            evidence=[f"by threshold (ATC): {atc:.3f}", *(_list_unsure(current) if is_alarm else [])],
        )


def _list_unsure(window: Window, n_texts: int = 3) -> list[str]:
    known = [i for i in np.argsort(window.confidence, kind="stable") if window.texts[i] is not None]
    return [f"unsure: “{window.texts[i]}” is {window.y_pred[i]} to {window.confidence[i]:.0%}" for i in known[:n_texts]]


def estimate_accuracy(confidence: Floats) -> Estimate:
    """CBPE of accuracy: the mean confidence, with the 95% interval of its sampling error.

    Args:
        confidence: calibrated probability of each predicted label, shape [examples].
    """
    mean = float(confidence.mean())
    margin = _TWO_SIDED_95 * float(confidence.std()) / math.sqrt(len(confidence))
    return Estimate(value=mean, low=max(0.0, mean - margin), high=min(1.0, mean + margin))


def estimate_macro_f1(y_proba: Floats) -> float:
    """CBPE of macro-F1: from the confusion matrix that the probabilities, shape [examples, labels], let expect."""
    predicted = np.eye(y_proba.shape[1])[y_proba.argmax(1)]
    hits = (predicted * y_proba).sum(0)
    sizes = predicted.sum(0) + y_proba.sum(0)
    return float(np.mean(2 * hits / np.maximum(sizes, 1e-12)))


def estimate_by_threshold(reference: Floats, labels: LabeledSample, current: Floats) -> float:
    """ATC of accuracy: the share above the confidence that as many test examples reach as were predicted right.

    Args:
        reference: confidence of each test example, shape [examples].
        labels: of the same examples.
        current: confidence in the window to estimate, shape [examples].
    """
    accuracy = float((labels.predicted == labels.actual).mean())
    threshold = np.quantile(reference, 1 - accuracy)
    return float((current >= threshold).mean())
