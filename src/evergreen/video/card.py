"""The detector's model card: `card_template.md`, filled from the manifest and the metrics."""

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from evergreen.params import VideoParams
from evergreen.video.bundle import Manifest
from evergreen.video.metrics import FeatureMetrics, VideoMetrics

TEMPLATE = Path(__file__).with_name("card_template.md")


def render_card(manifest: Manifest, metrics: VideoMetrics, features: FeatureMetrics, params: VideoParams) -> str:
    """Write the card of a bundle as Markdown, with the metadata that model hubs read."""
    levels = {
        level: {name: getattr(metrics, f"{level}_{name}") for name in ("auc", "ap", "f1", "eer")}
        for level in ("frame", "clip")
    }
    card = ModelCard.from_template(
        ModelCardData(
            model_name=f"{manifest.name} {manifest.version}", pipeline_tag="video-classification", library_name="onnx"
        ),
        str(TEMPLATE),
        manifest=manifest,
        metrics=metrics,
        features=features,
        params=params,
        levels=levels,
    )
    return str(card)
