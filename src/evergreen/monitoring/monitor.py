"""One look of the monitor: from the log's rows to a verdict, and from there to everything that shows it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Self

from evergreen.monitoring.drift_report import add_to_workspace
from evergreen.monitoring.explanation import compare_topics
from evergreen.monitoring.log import LabeledPrediction, PredictionLog
from evergreen.monitoring.report import HISTORY_PLOT, VERDICT, write_report
from evergreen.monitoring.signals import Signal, load_signals
from evergreen.monitoring.staleness import Verdict, judge, measure
from evergreen.monitoring.windows import Reference, Windows, read_windows
from evergreen.params import Params
from evergreen.settings import Settings
from evergreen.text.runtime import Classifier
from evergreen.tracking import Run, record

WORKSPACE = "evidently"


@dataclass(frozen=True)
class Monitor:
    """The champion with its reference window and the signals, ready to look at any window of the log."""

    params: Params
    classifier: Classifier
    reference: Reference
    signals: dict[str, Signal]

    @classmethod
    def load(cls, params: Params, bundle: Path, test: Path) -> Self:
        """Load the champion's bundle and its test set.

        Raises:
            ParamsError: when a signal's parameters are wrong.
            BundleError, MonitorError: when the bundle or the test set can't be used.
        """
        signals = load_signals(params.monitor.signals)
        classifier = Classifier.load(bundle)
        return cls(params, classifier, Reference.load(test, classifier, params.monitor.max_samples), signals)

    def follow(self, log: PredictionLog) -> Self:
        """Compare with what production saw while the champion's newest texts were collected, where the log has it."""
        return replace(self, reference=self.reference.follow(log, self.classifier, self.params.monitor))

    def read_log(self, log: PredictionLog, until: datetime) -> Iterable[LabeledPrediction]:
        """The rows of the log that a look reads."""
        return log.stream(until - timedelta(days=self.params.monitor.history_days), until)

    def look(
        self, rows: Iterable[LabeledPrediction], until: datetime, now: datetime | None = None
    ) -> tuple[Verdict, Windows]:
        """Judge the window that ends at a time.

        Args:
            rows: of the log, as `read_log` gives them.
            until: end of the window, excluded.
            now: labels that came later are not seen; None: all are.
        """
        params = self.params.monitor
        windows = read_windows(rows, self.reference, self.classifier, params, until, now, self.params.seed)
        topics = compare_topics(windows.reference.known_texts, windows.current.known_texts, self.params.data.topics)
        return judge(measure(windows, self.signals, params), windows, params, topics), windows


def publish(verdict: Verdict, windows: Windows, folder: Path, settings: Settings) -> str:
    """Write the report, add it to the Evidently workspace, record it in MLflow; return what became of the record."""
    leave_report(verdict, windows, folder, settings.state_dir / WORKSPACE)
    if find_spec("mlflow") is None:
        return "not recorded: MLflow is not installed here"
    flushed = record(describe_run(verdict, folder), settings)
    return "run kept for later" if flushed.problem else "run recorded"


def leave_report(verdict: Verdict, windows: Windows, folder: Path, workspace: Path) -> None:
    """Write the report into a folder, and add its snapshot to an Evidently workspace."""
    snapshot = write_report(verdict, windows, folder)
    if snapshot is not None:
        add_to_workspace(snapshot, workspace)


def describe_run(verdict: Verdict, folder: Path) -> Run:
    """A look as an MLflow run of its own; the same look again is the same run."""
    key = hashlib.sha256(f"monitor {verdict.model} {verdict.until.isoformat()}".encode()).hexdigest()[:32]
    metrics = {
        reason.signal: {
            name: value
            for name in ("value", "low", "high", "threshold", "p_value")
            if (value := getattr(reason, name)) is not None
        }
        for reason in verdict.signals
    }
    return Run(
        key,
        f"monitor {verdict.until:%Y-%m-%d}",
        metrics=metrics | {"n_predictions": verdict.n_predictions, "is_stale": int(verdict.status == "stale")},
        tags={"stage": "monitor", "status": verdict.status, "model": verdict.model, "summary": verdict.summary},
        artifacts=[folder / VERDICT, folder / HISTORY_PLOT],
    )
