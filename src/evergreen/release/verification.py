"""Does a release hold in place? It answers as its bundle does, with no more errors or delay than the version before."""

from pathlib import Path

from evergreen.errors import EvergreenError
from evergreen.metrics import Metrics
from evergreen.params import ReleaseParams
from evergreen.release.golden import GoldenSet
from evergreen.release.measurement import Figures, Measurement, measure
from evergreen.release.server import Server, ServerError
from evergreen.release.smoke import SmokeError, smoke
from evergreen.written import load_written

ROLL_BACK = 5
"""Exit code."""


class VerificationError(EvergreenError):
    """The release does not hold, or nobody can see that it does: it has to be rolled back."""

    exit_code = ROLL_BACK


class MeasurementError(EvergreenError):
    """A file is no measurement."""

    exit_code = 2


class VerificationCheck(Metrics):
    """One thing that has to hold."""

    name: str
    passed: bool
    message: str


class Verification(Metrics):
    """`reports/release/verification.json`."""

    passed: bool
    checks: list[VerificationCheck]
    now: Measurement
    before: Measurement | None


def load_before(file: Path | None) -> Measurement | None:
    """Read the measurement of the version before; None where there was none to measure.

    Raises:
        MeasurementError: when the file is something else.
    """
    if file is None or not file.is_file():
        return None
    return load_written(Measurement, file, "evergreen release measure", MeasurementError)


def verify(
    server: Server, golden: GoldenSet, before: Measurement | None, params: ReleaseParams, seconds: float
) -> Verification:
    """Ask and watch the server that has the release.

    Args:
        server: in place.
        golden: what it must answer.
        before: the version before; None: only absolute limits.
        params: limits.
        seconds: how long to watch.

    Raises:
        VerificationError: when it does not answer as it should, or at all.
    """
    try:
        answered = smoke(server, golden, params, with_batch=False)
        now = measure(server, golden.texts, params, seconds)
    except (ServerError, SmokeError) as error:
        raise VerificationError(f"the release does not hold: {error}") from error
    checks = [VerificationCheck(name="answers", passed=True, message=answered), *judge(now, before, params)]
    return Verification(passed=all(check.passed for check in checks), checks=checks, now=now, before=before)


def judge(now: Measurement, before: Measurement | None, params: ReleaseParams) -> list[VerificationCheck]:
    """Compare a measurement with the limits, and with the version before where both were measured alike."""
    figures, earlier = _choose_figures(now, before, params.min_requests)
    enough = VerificationCheck(
        name="requests",
        passed=figures.n_requests >= params.min_requests,
        message=f"{now}; at least {params.min_requests} are needed",
    )
    return [enough, _judge_errors(figures, earlier, params), _judge_p99(figures, earlier, params)]


def _choose_figures(now: Measurement, before: Measurement | None, min_requests: int) -> tuple[Figures, Figures | None]:
    """The figures to judge, and those before that were taken in the same way from enough requests."""
    ways = [(now.server, before.server if before else None), (now.probes, before.probes if before else None)]
    for figures, earlier in ways:
        if figures and earlier and min(figures.n_requests, earlier.n_requests) >= min_requests:
            return figures, earlier
    return now.server or now.probes, None


def _judge_errors(figures: Figures, earlier: Figures | None, params: ReleaseParams) -> VerificationCheck:
    start = earlier.error_rate if earlier else 0.0
    limit = start + params.max_error_increase
    against = f", before {start:.2%}" if earlier else ""
    return VerificationCheck(
        name="errors",
        passed=figures.error_rate <= limit,
        message=f"{figures.n_errors} of {figures.n_requests:,} requests, {figures.error_rate:.2%}{against}; "
        f"at most {limit:.2%}",
    )


def _judge_p99(figures: Figures, earlier: Figures | None, params: ReleaseParams) -> VerificationCheck:
    start = earlier.p99_ms if earlier else None
    limit = params.max_p99_ms if start is None else start * params.max_p99_ratio + params.p99_floor_ms
    against = "" if start is None else f", before {start:.0f} ms"
    low = figures.p99_low_ms
    value = "unknown" if low is None else f"{figures.p99_ms:.0f} ms, surely {low:.0f} ms or more"
    return VerificationCheck(
        name="p99",
        passed=low is not None and low <= limit,
        message=f"{value}{against}; surely more than {limit:.0f} ms fails",
    )
