"""What a running version does to its callers over some minutes: requests, errors, p99; by its counters and by probes.

The counters are one process's. Behind a balancer of several servers, or around a restart, they say nothing; that shows,
since a counter went down, and then the probes alone count. They are texts of the golden set, sent while callers send
too few.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from prometheus_client.parser import text_string_to_metric_families
from scipy.stats import binom

from evergreen.errors import EvergreenError
from evergreen.metrics import Metrics
from evergreen.params import ReleaseParams
from evergreen.release.server import Server, ServerError

ROUTE = "/v1/classify"
"""Whose time is measured; health checks and uploads would only blur it."""
_UNCOUNTED = (0, 502, 504)
"""Outcomes that the server's counters don't have: no answer, or a gateway's."""
_PERIOD = 5.0
"""Seconds between two looks at the counters."""


class TooShortError(EvergreenError):
    """Probes alone can't be as many as a judgment needs; the message says how long to measure."""

    exit_code = 2


class Figures(Metrics):
    """What was seen in one way.

    Attributes:
        n_requests: to any route under /v1; for probes, those sent.
        n_errors: of them, answered with 5xx or not at all.
        p99_ms: of /v1/classify; None without a request.
        p99_low_ms: what it is surely not below: its lower 99% confidence bound.
    """

    n_requests: int
    n_errors: int
    p99_ms: float | None
    p99_low_ms: float | None

    @property
    def error_rate(self) -> float:
        """Fraction of requests that failed."""
        return self.n_errors / max(self.n_requests, 1)

    def __str__(self) -> str:
        p99 = "unknown" if self.p99_ms is None else f"{self.p99_ms:.0f} ms"
        return f"{self.n_requests:,} requests, {self.error_rate:.2%} errors, p99 {p99}"


class Measurement(Metrics):
    """`reports/release/*.json`.

    Attributes:
        model: that answered, as `/v1/model` names it.
        seconds: how long.
        server: by the server's counters, probes included; None where they are not one process's.
        probes: of our own requests.
    """

    model: str
    seconds: float
    server: Figures | None
    probes: Figures

    def __str__(self) -> str:
        own = f"of our own: {self.probes}"
        if self.server is None:
            return f"{self.model}, {self.seconds:.0f} s: the counters are not one server's; {own}"
        return f"{self.model}, {self.seconds:.0f} s: {self.server}; {own}"


@dataclass(frozen=True)
class Counters:
    """A look at `/metrics`.

    Attributes:
        statuses: requests under /v1 by status.
        buckets: requests to ROUTE that took at most so many seconds, by that bound.
    """

    statuses: Counter[str]
    buckets: Counter[float]

    @classmethod
    def read(cls, server: Server) -> Self:
        """Look now.

        Raises:
            ServerError: when there is nothing to see.
        """
        return cls.parse(server.ask("GET", "/metrics").text)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read Prometheus' text format."""
        statuses: Counter[str] = Counter()
        buckets: Counter[float] = Counter()
        try:
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    route = sample.labels.get("route", "")
                    if sample.name == "evergreen_requests_total" and route.startswith("/v1/"):
                        statuses[sample.labels["status"]] += int(sample.value)
                    elif sample.name == "evergreen_request_seconds_bucket" and route == ROUTE:
                        buckets[float(sample.labels["le"])] += int(sample.value)
        except (ValueError, KeyError) as error:
            raise ServerError(f"/metrics: not Prometheus' text format ({error}).") from error
        return cls(statuses, buckets)

    def has_shrunk(self, before: "Counters") -> bool:
        """Whether some counter went down: the server started anew, or another one answered."""
        return any(self.statuses[key] < count for key, count in before.statuses.items()) or any(
            self.buckets[key] < count for key, count in before.buckets.items()
        )

    def subtract(self, before: "Counters") -> Figures:
        """What happened since."""
        statuses = self.statuses - before.statuses
        buckets = {bound: count - before.buckets[bound] for bound, count in self.buckets.items()}
        ranks = (0.99, bound_rank(max(buckets.values(), default=0)))
        p99, low = (estimate_quantile(buckets, rank) for rank in ranks)
        return Figures(
            n_requests=statuses.total(),
            n_errors=sum(count for status, count in statuses.items() if status.startswith("5")),
            p99_ms=None if p99 is None else p99 * 1000,
            p99_low_ms=None if low is None else low * 1000,
        )


def bound_rank(n_requests: int) -> float:
    """The quantile of a sample that is surely not above the 99% quantile of what it was drawn from.

    The number of requests below that quantile is binomial, whatever the distribution is (Hahn and Meeker, Statistical
    Intervals, 1991, 5.2).
    """
    return float(binom.ppf(0.01, n_requests, 0.99)) / n_requests if n_requests else 0.99


def estimate_quantile(buckets: Mapping[float, int], quantile: float) -> float | None:
    """Estimate a quantile of a histogram as Prometheus does, linear within a bucket.

    Args:
        buckets: how many are at most the bound, by bound; the last bound is infinite.
        quantile: from 0 to 1.

    Returns:
        None of an empty histogram; the last finite bound where it is beyond.
    """
    total = max(buckets.values(), default=0)
    if not total:
        return None
    lower, below = 0.0, 0
    for bound in sorted(buckets):
        count = buckets[bound]
        if count >= quantile * total:
            inside = (quantile * total - below) / max(count - below, 1)
            return lower if math.isinf(bound) else lower + (bound - lower) * inside
        lower, below = bound, count
    return lower


@dataclass
class _Probes:
    """Sends texts, one after the other, at a rate."""

    server: Server
    texts: list[str]
    per_second: float
    milliseconds: list[float] = field(default_factory=list)
    n_errors: int = 0
    n_unanswered: int = 0

    @property
    def n_sent(self) -> int:
        return len(self.milliseconds)

    def send_until(self, end: float) -> None:
        """Send until a moment of the monotonic clock."""
        while (started := time.monotonic()) < end:
            self._send()
            rest = min(started + 1 / self.per_second, end) - time.monotonic()
            time.sleep(max(0.0, rest))

    def _send(self) -> None:
        started = time.perf_counter()
        try:
            self.server.classify([self.texts[self.n_sent % len(self.texts)]])
        except ServerError as error:
            # 4xx as well: a key that is refused, say, is nothing that a release may do to its callers.
            self.n_errors += 1
            self.n_unanswered += error.status in _UNCOUNTED
        self.milliseconds.append((time.perf_counter() - started) * 1000)

    def describe(self) -> Figures:
        ranks = (0.99, bound_rank(self.n_sent))
        p99, low = (float(np.quantile(self.milliseconds, rank)) if self.milliseconds else None for rank in ranks)
        return Figures(n_requests=self.n_sent, n_errors=self.n_errors, p99_ms=p99, p99_low_ms=low)


def check_duration(seconds: float, params: ReleaseParams) -> None:
    """Check that probes alone can be as many as a judgment needs, on a server without callers.

    Raises:
        TooShortError: when they can't.
    """
    needed = params.min_requests / params.probes_per_second
    if seconds < needed:
        raise TooShortError(
            f"--minutes {seconds / 60:g}: at most {seconds * params.probes_per_second:.0f} probes, and "
            f"release.min_requests is {params.min_requests}. Measure for {needed / 60:.1f} minutes or more."
        )


def measure(server: Server, texts: list[str], params: ReleaseParams, seconds: float) -> Measurement:
    """Watch a server, and send probes while its callers send too few to judge by.

    Args:
        server: running.
        texts: of the golden set.
        params: how many requests are enough, how many probes are sent.
        seconds: how long.

    Raises:
        ServerError: when the counters can't be read at the beginning or at the end.
    """
    model = _name_model(server)
    probes = _Probes(server, texts, params.probes_per_second)
    first = last = Counters.read(server)
    started = time.monotonic()
    end, seen_at = started + seconds, started
    is_one, is_quiet, sent = True, True, 0
    while (now := time.monotonic()) < end:
        period_end = min(now + _PERIOD, end)
        if is_quiet:
            probes.send_until(period_end)
        else:
            time.sleep(period_end - now)
        counters = _look(server, time.monotonic() >= end)
        if counters is None:
            continue
        is_one = is_one and not counters.has_shrunk(last)
        foreign = counters.subtract(last).n_requests - (probes.n_sent - sent)
        expected = foreign * seconds / max(time.monotonic() - seen_at, 1e-9)
        is_quiet = not is_one or expected < params.min_requests
        last, seen_at, sent = counters, time.monotonic(), probes.n_sent
    figures = last.subtract(first)
    is_one = is_one and figures.n_requests >= probes.n_sent - probes.n_unanswered
    return Measurement(
        model=model,
        seconds=time.monotonic() - started,
        server=_add_unanswered(figures, probes.n_unanswered) if is_one else None,
        probes=probes.describe(),
    )


def _look(server: Server, is_last: bool) -> Counters | None:
    """Look at the counters; a look that fails half-way is left out, since the probes show what it means."""
    try:
        return Counters.read(server)
    except ServerError:
        if is_last:
            raise
        return None


def _add_unanswered(figures: Figures, count: int) -> Figures:
    """Count what never reached the server's counters."""
    changes = {"n_requests": figures.n_requests + count, "n_errors": figures.n_errors + count}
    return figures.model_copy(update=changes)


def _name_model(server: Server) -> str:
    try:
        model = server.ask_json("GET", "/v1/model")["text"]
        return f"{model['name']} {model['version']} {model['run'][:12]}"
    except (KeyError, TypeError) as error:
        raise ServerError(f"{server.url}/v1/model: names no text model. Check the address.") from error
