"""Run the gate on what the pipeline left, beside the champion of a Git revision."""

import time
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from evergreen.params import Params
from evergreen.release.champion import Champion
from evergreen.release.gate import (
    Check,
    GateResult,
    TestSet,
    conclude,
    judge_budget,
    judge_champion,
    judge_latency,
    judge_video,
)
from evergreen.text.evaluation_metrics import TextMetrics
from evergreen.text.runtime import Classifier
from evergreen.video.metrics import VideoMetrics

TEST, BUNDLE, METRICS = Path("data/text/test.parquet"), Path("models/text"), Path("metrics")


def run_gate(champion: Champion | None, params: Params, without_champion: str = "") -> GateResult:
    """Judge the challenger in the current folder.

    Args:
        champion: None where there is none.
        params: of the challenger.
        without_champion: why there is none.

    Raises:
        BundleError: when the challenger's bundle can't be used.
    """
    challenger = Classifier.load(BUNDLE, params.evaluate.num_threads)
    metrics = TextMetrics.load(METRICS / "text.json")
    gate, cost = params.gate, metrics.cost
    checks = judge_budget(metrics.size_mb, cost.training_cost, cost.currency, gate)
    if champion is None:
        checks.insert(0, _judge_baseline(metrics, without_champion))
        return conclude(checks, challenger.manifest.identity, None, None, [], params.seed)
    rows = pd.read_parquet(TEST)
    test = TestSet.predict(rows, champion.classifier, challenger)
    judged, slices = judge_champion(test, gate, params.evaluate, params.seed)
    models, texts = (champion.classifier, challenger), rows["text"].tolist()
    latency = judge_latency(*measure_latencies(models, texts, params.evaluate.latency_samples), gate)
    video = _load_video(METRICS / "video.json")
    checks = [*judged, latency, *checks, judge_video(champion.video, video, gate)]
    identities = challenger.manifest.identity, champion.classifier.manifest.identity
    return conclude(checks, *identities, test, slices, params.seed)


def measure_latencies(
    models: tuple[Classifier, Classifier], texts: Sequence[str], n_texts: int
) -> tuple[list[float], list[float]]:
    """Time single texts in milliseconds, the models in turns, so that what slows the machine slows both."""
    times: tuple[list[float], list[float]] = ([], [])
    for model in models:
        model.predict(texts[:20])
    for i in range(n_texts):
        turns = list(zip(models, times, strict=True))
        for model, taken in turns if i % 2 else reversed(turns):
            started = time.perf_counter()
            model(texts[i % len(texts)])
            taken.append((time.perf_counter() - started) * 1000)
    return times


def _judge_baseline(metrics: TextMetrics, why: str) -> Check:
    """Without a champion: surely better than the best baseline."""
    check = "better than the best baseline"
    if not metrics.baselines:
        message = f"{why} No baseline could be fitted: {'; '.join(metrics.unfitted_baselines.values())}."
        return Check(name=check, status="failed", message=message.strip())
    name, best = max(metrics.baselines.items(), key=lambda item: item[1].accuracy.value)
    passed = metrics.accuracy.low > best.accuracy.value
    message = (
        f"{why} Accuracy {metrics.accuracy}, {name} {best.accuracy.value:.3f}; the lower bound must be above that."
    )
    if metrics.unfitted_baselines:
        message += f" Not fitted: {', '.join(metrics.unfitted_baselines)}."
    return Check(name=check, status="passed" if passed else "failed", message=message.strip())


def _load_video(path: Path) -> VideoMetrics | None:
    return VideoMetrics.load(path) if path.is_file() else None
