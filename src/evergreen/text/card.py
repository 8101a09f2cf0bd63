"""The model card, written from the metrics (Mitchell et al., Model Cards for Model Reporting, FAT* 2019)."""

from typing import Any

from evergreen.text.bundle import Manifest


def card(manifest: Manifest, metrics: dict[str, Any], data: dict[str, Any]) -> str:
    """Write the card of a bundle as Markdown."""

    def score(value: dict[str, float]) -> str:
        return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

    models = {f"this bundle ({manifest.precision})": metrics, **metrics["yardsticks"]}
    compared = [f"| {name} | {score(m['accuracy'])} | {score(m['macro_f1'])} |" for name, m in models.items()]
    classes = [
        f"| {name} | {c['precision']:.3f} | {c['recall']:.3f} | {c['f1']:.3f} | {c['texts']:,.0f} |"
        for name, c in metrics["per_class"].items()
    ]
    parts = [
        f"| {kind}: {name} | {score(part)} | {part['texts']:,} |"
        for kind, group in metrics["slices"].items()
        for name, part in group.items()
    ]
    size, agreed = metrics["size_mb"], metrics["agreement"]
    speed, cost = metrics["speed"], metrics["cost"]
    splits = data["splits"]
    return "\n".join(
        [
            f"# Model card: {manifest.name} {manifest.version}",
            "Written by the evaluate stage from `metrics/`; change nothing here by hand.",
            "",
            "## What it is",
            f"A transformer text classifier that answers one of {', '.join(f'*{label}*' for label in manifest.labels)},"
            f" shipped as {manifest.precision} ONNX ({size:.1f} MB with its tokenizer).",
            f"Trained {manifest.trained_at} on {splits['train']:,} texts of {', '.join(manifest.trained_on)}, observed"
            f" until {manifest.trained_until[:10]}; data hash `{manifest.data_hash[:12]}`.",
            "",
            "## How good it is",
            f"On {metrics['texts']:,} held-out texts, with {metrics['confidence']:.0%} bootstrap intervals:",
            "",
            "| model | accuracy | macro-F1 |",
            "| --- | --- | --- |",
            *compared,
            "",
            "| class | precision | recall | F1 | texts |",
            "| --- | --- | --- | --- | --- |",
            *classes,
            "",
            "| slice | accuracy | texts |",
            "| --- | --- | --- |",
            *parts,
            "",
            f"Expected calibration error: {metrics['calibration']['after']['ece']:.3f} (before temperature"
            f" {metrics['calibration']['before']['ece']:.3f}). The bundle gives the torch model's label for"
            f" {agreed['label_agreement']:.1%} of {agreed['texts']:,} validation texts (accuracy there"
            f" {agreed['bundle_accuracy']:.3f}, torch {agreed['torch_accuracy']:.3f}), and the same label alone and in"
            f" a batch for {agreed['batch_label_agreement']:.1%} (largest difference of a probability"
            f" {agreed['batch_max_probability_difference']:.3f}).",
            "",
            "## What it costs",
            f"One text: {speed['p50_ms']:.1f} ms (p99 {speed['p99_ms']:.1f} ms); {speed['texts_per_second']:,.0f} texts"
            " per second in batches, on the machine that evaluated it. Training took"
            f" {cost['training_seconds']:.0f} s ({cost['training']:.4f} {cost['currency']}, about"
            f" {cost['training_watt_hours']:.1f} Wh); a million predictions cost {cost['million_predictions']:.4f}"
            f" {cost['currency']} (about {cost['million_predictions_watt_hours']:.0f} Wh).",
            "",
            "## What it is not for",
            f"It knows texts like those of {', '.join(manifest.trained_on)}; on other topics its accuracy is unknown"
            " until measured, and its confidence no longer means what it says. It reads at most"
            f" {manifest.max_tokens} tokens of a text. No decision about a person should rest on it alone.",
            "",
        ]
    )
