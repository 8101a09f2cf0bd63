"""Do the texts mean something else than those that the champion was tested on?"""

import math
from typing import ClassVar

from evergreen.monitoring.explanation import find_new_terms, find_typical_texts
from evergreen.monitoring.signals.base import Measurement, Positive, Signal, judge_comparison
from evergreen.monitoring.two_sample import compare_embeddings
from evergreen.monitoring.windows import Windows


class EmbeddingDrift(Signal):
    """Distance between the windows in the champion's own embedding, by a permutation test on the kernel mean.

    Texts are compared within the class that the champion predicts for them: where only the mix of the classes changes,
    `class_drift` says so, and this signal stays quiet.

    Parameters:
        min_distance: 0 where windows are alike, at most the square root of 2; two airlines' tweets are 0.01 apart,
            tweets about airlines and about a telephone 0.26.

    Example:
        >>> EmbeddingDrift(min_distance=0.1).rule
        'company'

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 2012. Rabanser, Günnemann and Lipton, Failing Loudly: An
        Empirical Study of Methods for Detecting Dataset Shift, NeurIPS 2019.
    """

    title: ClassVar[str] = "Texts"

    min_distance: Positive

    def measure(self, windows: Windows, alpha: float) -> Measurement:
        """Compare the embeddings of the texts that the log keeps."""
        reference, current = windows.reference, windows.current
        if not current.known_texts:
            return Measurement.unknown("The log keeps no texts to compare (EVERGREEN_LOG_TEXT).")
        strata = reference.known_y_pred, current.known_y_pred
        comparison = compare_embeddings(
            reference.embeddings,
            current.embeddings,
            seed=windows.seed,
            strata=strata,
            n_permutations=math.ceil(1 / alpha),
        )
        measurement = judge_comparison(comparison, self.min_distance, alpha, self.title)
        if measurement.status == "ok":
            return measurement
        terms = find_new_terms(reference.known_texts, current.known_texts)
        evidence = [f"now frequent: {', '.join(map(str, terms))}"] if terms else []
        evidence += [str(text) for text in find_typical_texts(reference, current)]
        return measurement.model_copy(update={"evidence": evidence})
