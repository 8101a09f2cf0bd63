"""The model card says what the metrics say."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from evergreen.text.bundle import Bundle, Manifest
from evergreen.text.card import render_card
from evergreen.text.evaluation_metrics import TextMetrics
from evergreen.text.metrics import DataMetrics


def estimate(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.011, "high": value + 0.012}


def reliability(ece: float) -> dict[str, Any]:
    return {"ece": ece, "confidence": [], "accuracy": [], "low": [], "high": [], "n_samples": []}


@pytest.fixture
def corpus() -> DataMetrics:
    counts = {
        "rows": 0,
        "quarantined": 0,
        "invalid_fraction": 0,
        "near_empty": 0,
        "duplicates": 0,
        "label_conflicts": 0,
    }
    splits = {"train": 11_263, "validation": 900, "test": 2_200, "stream": 0}
    return DataMetrics(**counts, quarantine_reasons={}, splits=splits, classes={}, topics={})


@pytest.fixture
def fields() -> dict[str, Any]:
    return {
        "accuracy": estimate(0.8123),
        "macro_f1": estimate(0.7347),
        "n_samples": 2187,
        "confidence_level": 0.95,
        "per_class": {"negative": {"precision": 0.91, "recall": 0.92, "f1": 0.915, "support": 1234}},
        "confusion_matrix": [],
        "slices": {
            "topic": {"airline": {**estimate(0.654), "n_samples": 321}},
            "length": {"120_and_more": {**estimate(0.777), "n_samples": 45}},
            "unseen_topic": {
                "apple": {**estimate(0.456), "n_samples": 67},
                "other": {**estimate(0.543), "n_samples": 89},
            },
        },
        "baselines": {"majority_class": {"accuracy": estimate(0.611), "macro_f1": estimate(0.222)}},
        "calibration": {"uncalibrated": reliability(0.0987), "calibrated": reliability(0.0123)},
        "parity": {
            "label_parity": 0.987,
            "n_samples": 512,
            "max_proba_difference": 0.2,
            "mean_proba_difference": 0.1,
            "bundle_accuracy": 0.857,
            "torch_accuracy": 0.859,
            "batch_label_parity": 1.0,
            "batch_max_proba_difference": 3e-6,
        },
        "latency": {"p50_ms": 4.56, "p99_ms": 7.89, "samples_per_second": 1357.0},
        "size_mb": 23.42,
        "cost": {
            "currency": "USD",
            "training_cost": 0.0068,
            "training_energy_wh": 4.1,
            "inference_cost_per_million": 0.0205,
            "inference_energy_per_million_wh": 12.0,
        },
    }


@pytest.fixture
def manifest(int8_folder: Path) -> Manifest:
    return Bundle.load(int8_folder).manifest.model_copy(update={"train_samples": 11_263})


def test_it_holds_the_numbers(manifest: Manifest, fields: dict[str, Any], corpus: DataMetrics) -> None:
    text = " ".join(render_card(manifest, TextMetrics.model_validate(fields), corpus).split("\n"))
    for part in (
        "# Model card: text 0.1.0",
        "11,263 texts of airline",
        "2026-03-01",
        "| this bundle (int8) | 0.812 (0.801 to 0.824) | 0.735 (0.724 to 0.747) |",
        "| majority class | 0.611 (0.600 to 0.623) |",
        "| negative | 0.910 | 0.920 | 0.915 | 1,234 |",
        "| topic: airline | 0.654 (0.643 to 0.666) | 321 |",
        "| characters: 120 and more | 0.777 (0.766 to 0.789) | 45 |",
        "| unseen topic: apple | 0.456 (0.445 to 0.468) | 67 |",
        "between 0.456 and 0.543",
        "2,187 texts",
        "95 % bootstrap intervals",
        "0.012 (0.099 before",
        "98.7 % of 512",
        "100.0 %",
        "3e-06",
        "23.4 MB",
        "4.6 ms (p99 7.9 ms)",
        "1,357",
        "0.0068 USD",
        "0.0205",
    ):
        assert part in text
    assert "with a warm start" not in text
    for label in manifest.labels:
        assert f"*{label}*" in text


def test_hubs_can_read_its_metadata(manifest: Manifest, fields: dict[str, Any], corpus: DataMetrics) -> None:
    card = ModelCard(render_card(manifest, TextMetrics.model_validate(fields), corpus))
    assert card.data.pipeline_tag == "text-classification"


def test_a_warm_start_says_what_it_was_trained_on(
    manifest: Manifest, fields: dict[str, Any], corpus: DataMetrics
) -> None:
    warm = manifest.model_copy(update={"train_samples": 321})
    text = render_card(warm, TextMetrics.model_validate(fields), corpus)
    assert "321 texts of airline" in text
    assert "holds 11,263: with a warm start" in text


def test_a_baseline_that_was_not_fitted_is_a_row_with_the_reason(
    manifest: Manifest, fields: dict[str, Any], corpus: DataMetrics
) -> None:
    reason = "a reason that has a | in it"
    fields["unfitted_baselines"] = {"tfidf_logistic_regression": reason}
    text = render_card(manifest, TextMetrics.model_validate(fields), corpus)
    assert "| majority class | 0.611" in text
    assert "\n| TF-IDF + logistic regression | not fitted: a reason that has a \\| in it | |\n\n| class" in text


def test_a_corpus_of_one_topic_says_so(manifest: Manifest, fields: dict[str, Any], corpus: DataMetrics) -> None:
    fields["slices"]["unseen_topic"] = {}
    text = render_card(manifest, TextMetrics.model_validate(fields), corpus)
    assert "accuracy on other topics was not measured" in text


@pytest.mark.parametrize(("n_labels", "n_topics"), [(3, 2), (20, 20), (150, 1500)])
def test_it_stays_readable_with_many_classes_and_topics(
    manifest: Manifest, fields: dict[str, Any], corpus: DataMetrics, n_labels: int, n_topics: int
) -> None:
    name = "a | name of sixty characters that is not of use to anybody {:04}"
    labels, topics = ([name.format(i) for i in range(count)] for count in (n_labels, n_topics))
    fields["per_class"] = {
        label: {"precision": 0.5, "recall": 0.5, "f1": 1 - i / n_labels, "support": 9} for i, label in enumerate(labels)
    }
    slices = {topic: {**estimate(0.654), "n_samples": i} for i, topic in enumerate(topics)}
    fields["slices"] |= {"topic": slices, "unseen_topic": slices}
    many = manifest.model_copy(update={"labels": labels, "train_topics": topics})
    text = render_card(many, TextMetrics.model_validate(fields), corpus)
    plain = text.replace("\\|", "|")
    assert len(text.splitlines()) <= 160
    assert len(text) <= 16_000
    rows = [line for line in text.splitlines() if line.startswith("| a \\| name")]
    assert len(rows) == min(n_labels, 20)
    assert all(row.replace("\\|", "").count("|") == 6 for row in rows)
    assert labels[-1] in plain  # the lowest F1
    assert f"topic: {topics[-1]} |" in plain  # the largest
    assert ("lowest F1 of 150" in text) == (n_labels == 150)
    assert ("largest slices by unseen topic of 1,500" in text) == (n_topics == 1500)
    assert ("and 130 more" in text, "and 1,480 more" in text) == (n_labels == 150, n_topics == 1500)


@pytest.mark.parametrize(
    "path",
    [
        ("accuracy", "value"),
        ("macro_f1", "low"),
        ("n_samples",),
        ("per_class", "negative", "recall"),
        ("slices", "topic", "airline", "value"),
        ("baselines", "majority_class", "macro_f1", "high"),
        ("calibration", "calibrated", "ece"),
        ("parity", "label_parity"),
        ("latency", "p99_ms"),
        ("size_mb",),
        ("cost", "inference_cost_per_million"),
    ],
    ids=".".join,
)
def test_it_changes_when_a_number_does(
    manifest: Manifest, fields: dict[str, Any], corpus: DataMetrics, path: tuple[str, ...]
) -> None:
    before = render_card(manifest, TextMetrics.model_validate(fields), corpus)
    node = fields
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = node[path[-1]] * 2
    assert render_card(manifest, TextMetrics.model_validate(fields), corpus) != before


def test_it_changes_with_the_manifest(manifest: Manifest, fields: dict[str, Any], corpus: DataMetrics) -> None:
    newer = manifest.model_copy(update={"version": "9.8.7", "train_topics": ["coachella"]})
    text = render_card(newer, TextMetrics.model_validate(fields), corpus)
    assert "9.8.7" in text
    assert "coachella" in text
    assert "of airline" not in text
