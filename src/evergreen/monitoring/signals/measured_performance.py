"""How accurate is the champion now, by the labels that came back?"""

from collections import Counter
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field
from scipy.stats import binomtest

from evergreen.metrics import Estimate
from evergreen.monitoring.confidence_sequence import estimate_fraction
from evergreen.monitoring.signals.base import Measurement, Signal
from evergreen.monitoring.windows import LabeledSample, Windows
from evergreen.params import Fraction


class MeasuredPerformance(Signal):
    """Accuracy and macro-F1 on feedback, each with a confidence sequence, against the champion's own test result.

    The newest window that has enough labels is judged: a label counts for the window of its prediction, however late
    it comes, and the interval holds at every look, however many labels have come by then. Where only some predictions
    got a label, each example counts for the predictions that resemble it (same label, like confidence), and the
    interval is as wide as if there were fewer examples, by as much as the weights differ (Kish's design effect).

    Parameters:
        min_labels: of a window, to be judged.
        margin: of accuracy and macro-F1 below the test result that is still no alarm.
        max_uncovered: fraction of the predictions that resemble no labeled one; above it nothing is corrected.

    Example:
        >>> MeasuredPerformance(min_labels=50, margin=0.02, max_uncovered=0.1, rule="alone").rule
        'alone'

    References:
        Robbins, Ann. Math. Stat. 1970, for the sequence. Kish, Survey Sampling, 1965, for the design effect.
    """

    title: ClassVar[str] = "Measured accuracy"
    needs_traffic: ClassVar[bool] = False

    min_labels: Annotated[int, Field(ge=1)]
    margin: Fraction
    max_uncovered: Fraction

    def measure(self, windows: Windows, alpha: float) -> Measurement:
        """Judge the newest window with enough labels."""
        sample = next((sample for sample in windows.labels if len(sample) >= self.min_labels), None)
        if sample is None:
            most = max(map(len, windows.labels), default=0)
            return Measurement.unknown(
                f"{self.title}: at most {most} labels in a window, {self.min_labels} are needed to judge.", most
            )
        sample = self._correct(sample)
        n_labels = len(windows.reference.labels)
        # Half of alpha for each measure; of a measure's, the test result takes half once, and the window the rest.
        accuracy = estimate_accuracy(sample, alpha / 4)
        macro_f1 = estimate_macro_f1(sample, n_labels, alpha / 4)
        test = windows.reference_labels
        test_accuracy, test_f1 = bound_test_accuracy(test, alpha / 4), bound_test_macro_f1(test, n_labels, alpha / 4)
        limits = test_accuracy.low - self.margin, test_f1.low - self.margin
        is_alarm = accuracy.high < limits[0] or macro_f1.high < limits[1]
        raw = float((sample.predicted == sample.actual).mean())
        estimates = f"{self.title}: {accuracy}, macro-F1 {macro_f1}"
        rule = f"alarm where the interval is below {limits[0]:.3f} or {limits[1]:.3f}"
        tested = f"test: {test_accuracy.value:.3f} and {test_f1.value:.3f}"
        days = f"from {sample.since:%Y-%m-%d} until {sample.until:%Y-%m-%d}"
        labels = f"{len(sample):,} labels, for {sample.coverage:.0%} of the predictions {days}"
        return Measurement(
            status="alarm" if is_alarm else "ok",
            message=f"{estimates}; {rule} ({tested}). {labels}.",
            value=accuracy.value,
            low=accuracy.low,
            high=accuracy.high,
            threshold=limits[0],
            n_reference=len(test),
            n_current=len(sample),
            details={
                "macro_f1": macro_f1.value,
                "macro_f1_low": macro_f1.low,
                "macro_f1_high": macro_f1.high,
                "macro_f1_threshold": limits[1],
                "uncorrected_accuracy": raw,
                "coverage": sample.coverage,
                "uncovered": sample.uncovered,
            },
            evidence=_list_evidence(sample, windows.current.labels),
        )

    def _correct(self, sample: LabeledSample) -> LabeledSample:
        """Take the weights back where too many predictions resemble no labeled one."""
        if sample.uncovered <= self.max_uncovered:
            return sample
        return LabeledSample(**vars(sample) | {"weights": np.ones(len(sample))})


def estimate_accuracy(sample: LabeledSample, alpha: float) -> Estimate:
    """Weighted accuracy, with an interval that the true one leaves at any look with probability `alpha`."""
    return _estimate(sample, np.ones(len(sample), bool), alpha)


def estimate_macro_f1(sample: LabeledSample, n_labels: int, alpha: float) -> Estimate:
    """Weighted macro-F1, with an interval as for `estimate_accuracy`.

    Of the examples that are of a class or predicted so, the share that is both, J, is a share like any other, and
    F1 = 2 J / (1 + J): so each class's interval is exact, and so is the mean of them, which leaves alpha to all.
    """
    estimates = [_estimate(sample, _mask_class(sample, code), alpha / n_labels) for code in range(n_labels)]
    return _average_f1(estimates)


def bound_test_accuracy(test: LabeledSample, alpha: float) -> Estimate:
    """Accuracy on the test set, with the exact bound that the true one is below with probability `alpha`."""
    return _bound(test, np.ones(len(test), bool), alpha)


def bound_test_macro_f1(test: LabeledSample, n_labels: int, alpha: float) -> Estimate:
    """Macro-F1 on the test set, with a bound as for `bound_test_accuracy`."""
    return _average_f1([_bound(test, _mask_class(test, code), alpha / n_labels) for code in range(n_labels)])


def _mask_class(sample: LabeledSample, code: int) -> np.ndarray:
    mask: np.ndarray = (sample.predicted == code) | (sample.actual == code)
    return mask


def _estimate(sample: LabeledSample, mask: np.ndarray, alpha: float) -> Estimate:
    weights = sample.weights[mask]
    if not len(weights):
        return Estimate(value=0.5, low=0.0, high=1.0)
    is_right = (sample.predicted == sample.actual)[mask]
    share = float(weights[is_right].sum() / weights.sum())
    n_effective = float(weights.sum() ** 2 / (weights**2).sum())
    return estimate_fraction(share * n_effective, n_effective, alpha)


def _bound(test: LabeledSample, mask: np.ndarray, alpha: float) -> Estimate:
    total, hits = int(mask.sum()), int((test.predicted == test.actual)[mask].sum())
    if not total:
        return Estimate(value=0.5, low=0.0, high=1.0)
    interval = binomtest(hits, total, alternative="greater").proportion_ci(1 - alpha)
    return Estimate(value=hits / total, low=float(interval.low), high=1.0)


def _average_f1(shares: list[Estimate]) -> Estimate:
    bounds = ([getattr(share, name) for share in shares] for name in ("value", "low", "high"))
    value, low, high = (float(np.mean([2 * j / (1 + j) for j in values])) for values in bounds)
    return Estimate(value=value, low=low, high=high)


def _list_evidence(sample: LabeledSample, labels: list[str]) -> list[str]:
    names = [*labels, "a label that the model does not have"]  # the code -1 is the last one
    wrong = np.flatnonzero(sample.predicted != sample.actual)
    confusions = Counter((int(sample.actual[i]), int(sample.predicted[i])) for i in wrong)
    evidence = [
        f"{names[actual]}, predicted as {names[predicted]}: {count:,} times"
        for (actual, predicted), count in confusions.most_common(3)
    ]
    known = [i for i in wrong if sample.texts[i] is not None][:3]
    return evidence + [
        f"“{sample.texts[i]}” is {names[sample.actual[i]]}, predicted as {names[sample.predicted[i]]}" for i in known
    ]
