"""Intervals for a share, as accuracy, that hold however often one looks.

An ordinary 95% interval misses the true value in 5% of the looks; whoever looks each day and acts on the first miss is
wrong far more often. A confidence sequence misses it at no look at all, with the same probability.
"""

import math

from scipy.optimize import brentq
from scipy.special import betaln

from evergreen.metrics import Estimate


def estimate_fraction(successes: float, total: float, alpha: float) -> Estimate:
    """Interval that a sequence of independent successes and failures leaves with probability `alpha`, ever.

    For a candidate share p, the ratio between the data's probability under all shares alike (the uniform mixture) and
    under p is a martingale if p is true: it starts at 1 and reaches 1 / alpha with probability alpha at most (Ville's
    inequality; the mixture is that of Robbins, Ann. Math. Stat. 1970). The interval holds each p not refuted so.

    Args:
        successes: of the `total` seen so far.
        total: 0 gives the interval from 0 to 1. Neither need be whole: a weighted sample counts as fewer examples.
        alpha: probability that the true share is ever outside, between 0 and 1.

    Raises:
        ValueError: when the counts or alpha are impossible.
    """
    if not 0 <= successes <= total or not 0 < alpha < 1:
        raise ValueError(f"{successes} of {total} at alpha {alpha}: not counts of a share, or no probability")
    if not total:
        return Estimate(value=0.5, low=0.0, high=1.0)
    failures = total - successes
    limit = float(betaln(successes + 1, failures + 1)) + math.log(alpha)

    def exceed(p: float) -> float:
        """How far the data's log probability under p lies above the least that is not refuted."""
        log_p = successes * math.log(p) if successes else 0.0
        return log_p + (failures * math.log1p(-p) if failures else 0.0) - limit

    share, tiny = successes / total, 1e-12
    low = brentq(exceed, tiny, share) if successes and exceed(tiny) < 0 else 0.0
    high = brentq(exceed, share, 1 - tiny) if failures and exceed(1 - tiny) < 0 else 1.0
    return Estimate(value=share, low=low, high=high)
