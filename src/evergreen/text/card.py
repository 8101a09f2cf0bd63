"""The model card: `card_template.md`, filled from the manifest and the metrics."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from evergreen.text.bundle import Manifest
from evergreen.text.evaluation_metrics import Scores, SliceScore, TextMetrics, display_name
from evergreen.text.metrics import DataMetrics

TEMPLATE = Path(__file__).with_name("card_template.md")
MAX_ROWS = 20
"""Classes and slices of a kind that the card shows; `metrics/text.json` has all."""


def render_card(manifest: Manifest, metrics: TextMetrics, data: DataMetrics) -> str:
    """Write the card of a bundle as Markdown, with the metadata that model hubs read.

    Of many classes it shows those of the lowest F1, of many slices the largest, and says how many there are.
    """
    models: dict[str, Scores] = {f"this bundle ({manifest.dtype})": metrics}
    models |= {display_name(name): scores for name, scores in metrics.baselines.items()}
    groups = {
        "topic": metrics.slices.topic,
        "characters": metrics.slices.length,
        "unseen topic": metrics.slices.unseen_topic,
    }
    classes = sorted(metrics.per_class.items(), key=lambda item: item[1].f1)[:MAX_ROWS]
    if len(metrics.per_class) <= MAX_ROWS:
        classes = list(metrics.per_class.items())
    unseen = sorted(metrics.slices.unseen_topic.values(), key=lambda row: row.value)
    card = ModelCard.from_template(
        ModelCardData(
            model_name=f"{manifest.name} {manifest.version}", pipeline_tag="text-classification", library_name="onnx"
        ),
        str(TEMPLATE),
        manifest=manifest,
        metrics=metrics,
        data=data,
        labels=_join([f"*{label}*" for label in manifest.labels]),
        topics=_join(manifest.train_topics),
        models=models,
        unfitted=[(display_name(name), _write_cell(reason)) for name, reason in metrics.unfitted_baselines.items()],
        classes=[(_write_cell(name), row) for name, row in classes],
        slices=[
            (kind, _write_cell(display_name(name)), row)
            for kind, rows in groups.items()
            for name, row in _pick_largest(rows)
        ],
        cut={kind: len(rows) for kind, rows in groups.items() if len(rows) > MAX_ROWS},
        max_rows=MAX_ROWS,
        worst=unseen[0] if unseen else None,
        best=unseen[-1] if unseen else None,
    )
    return str(card)


def _join(names: Sequence[str]) -> str:
    shown = ", ".join(" ".join(name.split()) for name in names[:MAX_ROWS])
    return f"{shown} and {len(names) - MAX_ROWS:,} more" if len(names) > MAX_ROWS else shown


def _pick_largest(rows: dict[str, SliceScore]) -> list[tuple[str, SliceScore]]:
    if len(rows) <= MAX_ROWS:
        return list(rows.items())
    return sorted(rows.items(), key=lambda item: -item[1].n_samples)[:MAX_ROWS]


def _write_cell(name: str) -> str:
    return " ".join(name.split()).replace("|", "\\|")
