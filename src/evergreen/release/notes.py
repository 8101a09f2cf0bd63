"""The notes of a release: what changed, on which data, how to check the image and how to roll back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evergreen.markdown import make_environment
from evergreen.metrics import Metrics
from evergreen.release.champion import parse_metrics, show_file
from evergreen.release.golden import GoldenSet
from evergreen.release.metrics_report import MetricRow
from evergreen.release.releases import Release
from evergreen.text.evaluation_metrics import TextMetrics
from evergreen.text.metrics import DataMetrics
from evergreen.video.metrics import VideoMetrics

ISSUER = "https://token.actions.githubusercontent.com"


@dataclass(frozen=True)
class ReleaseFacts:
    """What is known of a release.

    Attributes:
        tag: of Git.
        image: by its digest.
        verified: in place.
        signer: the workflow's identity in the signature.
        model: the bundles; None where nobody kept them.
        previous: the release before.
    """

    tag: str
    image: str
    verified: bool
    signer: str
    model: GoldenSet | None
    previous: Release | None


def render_notes(facts: ReleaseFacts, revision: str = "HEAD") -> str:
    """Write the notes as Markdown, the same each time for the same release.

    Args:
        facts: of the release.
        revision: whose metrics are the new ones.
    """
    previous = facts.previous
    revisions = [previous.tag, previous.commit] if previous else []
    data, data_before = _read(DataMetrics, "metrics/data.json", [revision], revisions)
    template = make_environment(Path(__file__).parent).get_template("release_notes_template.md")
    return template.render(
        facts=facts,
        rows=[*_compare_text(revision, revisions), *_compare_video(revision, revisions)],
        splits={} if data is None else data.splits,
        splits_before={} if data_before is None else data_before.splits,
        issuer=ISSUER,
    )


def _compare_text(revision: str, earlier: list[str]) -> list[MetricRow]:
    now, before = _read(TextMetrics, "metrics/text.json", [revision], earlier)
    rows = [_compare("text: accuracy", "accuracy", now, before), _compare("text: macro-F1", "macro_f1", now, before)]
    sizes = [None if metrics is None else f"{metrics.size_mb:.1f} MB" for metrics in (before, now)]
    return [] if now is None else [*rows, MetricRow("text: size of the bundle", *sizes)]


def _compare_video(revision: str, earlier: list[str]) -> list[MetricRow]:
    now, before = _read(VideoMetrics, "metrics/video.json", [revision], earlier)
    return [] if now is None else [_compare("video: frame AUC", "frame_auc", now, before)]


def _compare(name: str, field: str, now: Metrics | None, before: Metrics | None) -> MetricRow:
    values = [None if metrics is None else str(getattr(metrics, field)) for metrics in (before, now)]
    return MetricRow(name, *values)


def _read(kind: type[Metrics], path: str, now: list[str], before: list[str]) -> tuple[Any, Any]:
    """A file of metrics at the first revision of each list that has it in a form that is known."""
    return _read_first(kind, path, now), _read_first(kind, path, before)


def _read_first(kind: type[Metrics], path: str, revisions: list[str]) -> Metrics | None:
    for revision in revisions:
        content = show_file(revision, path)
        if content is not None:
            return parse_metrics(kind, content)
    return None
