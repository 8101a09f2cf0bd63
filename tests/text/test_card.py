"""The model card says what the metrics say."""

import copy
from pathlib import Path
from typing import Any

import pytest

from evergreen.text import bundle
from evergreen.text.card import card

DATA = {"splits": {"train": 11_263, "validation": 900, "test": 2_200, "stream": 0}}


def interval(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.011, "high": value + 0.012}


@pytest.fixture
def metrics() -> dict[str, Any]:
    return {
        "accuracy": interval(0.8123),
        "macro_f1": interval(0.7347),
        "texts": 2187,
        "confidence": 0.95,
        "per_class": {"negative": {"precision": 0.91, "recall": 0.92, "f1": 0.915, "texts": 1234.0}},
        "slices": {"source": {"airline": {**interval(0.654), "texts": 321}}, "characters": {}},
        "yardsticks": {"majority class": {"accuracy": interval(0.611), "macro_f1": interval(0.222)}},
        "calibration": {"before": {"ece": 0.0987}, "after": {"ece": 0.0123}},
        "agreement": {
            "label_agreement": 0.987,
            "texts": 512,
            "bundle_accuracy": 0.857,
            "torch_accuracy": 0.859,
            "batch_label_agreement": 0.996,
            "batch_max_probability_difference": 0.034,
        },
        "speed": {"p50_ms": 4.56, "p99_ms": 7.89, "texts_per_second": 1357.0},
        "size_mb": 23.42,
        "cost": {
            "currency": "USD",
            "training_seconds": 246.0,
            "training": 0.0068,
            "training_watt_hours": 4.1,
            "million_predictions": 0.0205,
            "million_predictions_watt_hours": 12.0,
        },
    }


@pytest.fixture
def manifest(int8_folder: Path) -> bundle.Manifest:
    return bundle.verify(int8_folder)


def test_it_holds_the_numbers(manifest: bundle.Manifest, metrics: dict[str, Any]) -> None:
    text = card(manifest, metrics, DATA)
    for part in (
        "# Model card: text 0.1.0",
        "11,263",
        "2026-03-01",
        "| this bundle (int8) | 0.812 (0.801 to 0.824) | 0.735 (0.724 to 0.747) |",
        "| majority class | 0.611 (0.600 to 0.623) |",
        "| negative | 0.910 | 0.920 | 0.915 | 1,234 |",
        "| source: airline | 0.654 (0.643 to 0.666) | 321 |",
        "2,187 held-out texts, with 95%",
        "0.012 (before temperature 0.099)",
        "98.7% of 512",
        "99.6%",
        "0.034",
        "23.4 MB",
        "4.6 ms (p99 7.9 ms)",
        "1,357",
        "246 s (0.0068 USD",
        "0.0205",
        "airline",
    ):
        assert part in text
    for label in manifest.labels:
        assert f"*{label}*" in text


@pytest.mark.parametrize(
    "path",
    [
        ("accuracy", "value"),
        ("macro_f1", "low"),
        ("texts",),
        ("per_class", "negative", "recall"),
        ("slices", "source", "airline", "value"),
        ("yardsticks", "majority class", "macro_f1", "high"),
        ("calibration", "after", "ece"),
        ("agreement", "label_agreement"),
        ("speed", "p99_ms"),
        ("size_mb",),
        ("cost", "million_predictions"),
    ],
    ids=".".join,
)
def test_it_changes_when_a_number_does(
    manifest: bundle.Manifest, metrics: dict[str, Any], path: tuple[str, ...]
) -> None:
    other = copy.deepcopy(metrics)
    place = other
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] *= 1.5
    assert card(manifest, other, DATA) != card(manifest, metrics, DATA)


def test_it_changes_with_the_manifest(manifest: bundle.Manifest, metrics: dict[str, Any]) -> None:
    newer = manifest.model_copy(update={"version": "9.8.7", "trained_on": ["coachella"]})
    text = card(newer, metrics, DATA)
    assert "9.8.7" in text
    assert "coachella" in text
    assert "of airline" not in text
