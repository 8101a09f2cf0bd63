"""What Prometheus reads at `/metrics`; docs/operations.md says what each figure means."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evergreen.monitoring.log_writer import LogWriter
from evergreen.serving.dispatcher import Dispatcher
from evergreen.serving.jobs import Jobs

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REASONS = ("overload", "timeout", "rate limit", "log unavailable", "failure")
"""Why a request is turned away."""


class ServerMetrics:
    """The figures of one server process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "evergreen_requests", "Requests answered.", ["method", "route", "status"], registry=registry
        )
        self.latency = Histogram(
            "evergreen_request_seconds",
            "From a request's first byte to its answer's last.",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.batch_size = Histogram(
            "evergreen_batch_texts", "Texts predicted together.", buckets=(1, 2, 4, 8, 16, 32), registry=registry
        )
        self.batch_seconds = Histogram(
            "evergreen_batch_seconds", "From a batch's leaving to its return.", buckets=_SECONDS, registry=registry
        )
        self.predictions = Counter(
            "evergreen_predictions", "Predictions answered.", ["kind", "model", "label"], registry=registry
        )
        self.feedback = Counter("evergreen_feedback", "Labels received.", ["kind", "label"], registry=registry)
        self.refused = Counter(
            "evergreen_refused", "Requests turned away because the server could not take them.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.reloads = Counter("evergreen_reloads", "New bundles taken up, or refused.", ["result"], registry=registry)
        # There from the start: a rate does not see the first step of a counter that was not.
        for reason in REASONS:
            self.refused.labels(reason)
        for result in ("taken up", "refused"):
            self.reloads.labels(result)

    def observe_batch(self, n_texts: int, seconds: float) -> None:
        """Count a batch."""
        self.batch_size.observe(n_texts)
        self.batch_seconds.observe(seconds)


class StateCollector:
    """Reads the state of a server's parts when Prometheus asks."""

    def __init__(self, dispatcher: Dispatcher, writer: LogWriter, jobs: Jobs) -> None:
        self._dispatcher = dispatcher
        self._writer = writer
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Yield a gauge for each figure."""
        dispatcher, log = self._dispatcher, self._writer.state
        for name, value, help_text in (
            ("workers", len(dispatcher.workers), "Processes ready to predict."),
            ("worker_losses", dispatcher.worker_losses, "Workers that died since the start."),
            ("queue_texts", dispatcher.n_waiting, "Texts that no worker has yet."),
            ("queue_seconds", dispatcher.wait_seconds, "How long the oldest of them has waited."),
            ("log_available", log.available, "Whether the prediction log can be written."),
            ("log_pending_rows", log.pending, "Rows that wait to be committed."),
            ("log_spooled_rows", log.spooled, "Rows kept in files until the log can be written."),
            ("log_lag_seconds", log.lag_seconds, "How long the oldest waiting row has waited."),
        ):
            yield GaugeMetricFamily(f"evergreen_{name}", help_text, float(value))
        models = GaugeMetricFamily("evergreen_model_info", "What the workers have loaded.", labels=["model"])
        for model in dispatcher.models:
            models.add_metric([model], 1)
        yield models
        family = GaugeMetricFamily("evergreen_jobs", "Jobs by what they do.", labels=["kind", "status"])
        for (kind, status), count in self._jobs.count().items():
            family.add_metric([kind, status], count)
        yield family


class MeasureRequests:
    """Count each request and the time that it took."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_noted)
        finally:
            # The route's pattern, never the path: a scanner must not make a new time series with each guess.
            route = getattr(scope.get("route"), "path", "(none)")
            self._metrics.requests.labels(scope["method"], route, status).inc()
            self._metrics.latency.labels(route).observe(time.perf_counter() - started)
