"""The model card: `card_template.md`, filled from the manifest and the metrics."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from evergreen.text.bundle import Manifest
from evergreen.text.evaluation_metrics import Scores, TextMetrics, display_name
from evergreen.text.metrics import DataMetrics

TEMPLATE = Path(__file__).with_name("card_template.md")


def render_card(manifest: Manifest, metrics: TextMetrics, data: DataMetrics) -> str:
    """Write the card of a bundle as Markdown, with the metadata that model hubs read."""
    models: dict[str, Scores] = {f"this bundle ({manifest.dtype})": metrics}
    models |= {display_name(name): scores for name, scores in metrics.baselines.items()}
    groups = {
        "topic": metrics.slices.topic,
        "characters": metrics.slices.length,
        "unseen topic": metrics.slices.unseen_topic,
    }
    unseen = sorted(metrics.slices.unseen_topic.values(), key=lambda row: row.value)
    card = ModelCard.from_template(
        ModelCardData(
            model_name=f"{manifest.name} {manifest.version}", pipeline_tag="text-classification", library_name="onnx"
        ),
        str(TEMPLATE),
        manifest=manifest,
        metrics=metrics,
        data=data,
        labels=", ".join(f"*{label}*" for label in manifest.labels),
        topics=", ".join(manifest.train_topics),
        models=models,
        slices=[(kind, display_name(name), row) for kind, rows in groups.items() for name, row in rows.items()],
        worst=unseen[0] if unseen else None,
        best=unseen[-1] if unseen else None,
    )
    return str(card)
