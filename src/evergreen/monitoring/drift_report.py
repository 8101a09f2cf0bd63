"""Evidently's report on both windows: HTML for people, JSON for machines, a snapshot for `evidently ui`.

It shows distributions; the verdict does not come from its thresholds, which promise no false-alarm rate.
"""

import logging
import warnings
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
from evidently import DataDefinition, Dataset, Report
from evidently.core.report import Snapshot
from evidently.descriptors import NonLetterCharacterPercentage, TextLength, WordCount
from evidently.presets import DataDriftPreset
from evidently.sdk.models import PanelMetric
from evidently.sdk.panels import line_plot_panel
from evidently.ui.workspace import Workspace

from evergreen.monitoring.staleness import Verdict
from evergreen.monitoring.windows import Window, Windows

PROJECT = "evergreen text"
_CLASS, _CONFIDENCE = "predicted class", "confidence"
_DESCRIPTORS = {
    "characters": TextLength("text", alias="characters"),
    "words": WordCount("text", alias="words"),
    "percentage of non-letters": NonLetterCharacterPercentage("text", alias="percentage of non-letters"),
}


def make_drift_report(windows: Windows, verdict: Verdict) -> Snapshot:
    """Compare both windows' texts, predicted classes and confidences; texts only where the log keeps them.

    Args:
        windows: neither may be empty.
        verdict: names the run and goes along as metadata.
    """
    has_texts = bool(windows.current.known_texts)
    columns = [_CLASS, _CONFIDENCE, *(_DESCRIPTORS if has_texts else ())]
    metadata: dict[str, Any] = {"model": verdict.model, "status": verdict.status, "summary": verdict.summary}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant columns
        return Report([DataDriftPreset(columns=columns)], metadata=metadata, tags=[verdict.status]).run(
            _make_dataset(windows.current, has_texts),
            _make_dataset(windows.reference, has_texts),
            timestamp=verdict.until,
            name=f"{verdict.until:%Y-%m-%d}",
        )


def add_to_workspace(snapshot: Snapshot, workspace: Path) -> None:
    """Put a snapshot into a workspace on disk, in place of an earlier one of the same name."""
    logging.getLogger("evidently").setLevel(logging.WARNING)
    store = Workspace.create(str(workspace))
    projects = store.search_project(PROJECT)
    project_id: UUID = projects[0].id if projects else _create_project(store)
    for run_id in store.list_runs(project_id):
        earlier = store.get_run(project_id, run_id)
        if earlier is not None and earlier.name == snapshot.get_name():
            store.delete_run(project_id, run_id)
    store.add_run(project_id, snapshot)


def _create_project(store: Workspace) -> UUID:
    project = store.create_project(PROJECT, description="Each look of the monitor; its verdict is a tag.")
    share = PanelMetric(legend="share of columns", metric="DriftedColumnsCount", metric_labels={"value_type": "share"})
    project.dashboard.add_panel(line_plot_panel("Columns that drifted, by Evidently's thresholds", [share]))
    scores = [
        PanelMetric(legend=column, metric="ValueDrift", metric_labels={"column": column})
        for column in (_CLASS, _CONFIDENCE, *_DESCRIPTORS)
    ]
    project.dashboard.add_panel(line_plot_panel("Drift score of each column", scores))
    identifier: UUID = project.id
    return identifier


def _make_dataset(window: Window, has_texts: bool) -> Dataset:
    """Where some texts are kept, only their rows are compared."""
    rows = pd.DataFrame(
        {"text": window.texts, _CLASS: window.y_pred, _CONFIDENCE: window.confidence.astype(float)}
    ).astype({"text": object, _CLASS: object})
    rows = rows[rows["text"].notna()] if has_texts else rows.drop(columns="text")
    definition = DataDefinition(
        text_columns=["text"] if has_texts else [], categorical_columns=[_CLASS], numerical_columns=[_CONFIDENCE]
    )
    descriptors = list(_DESCRIPTORS.values()) if has_texts else []
    return Dataset.from_pandas(rows, definition, descriptors=descriptors)
