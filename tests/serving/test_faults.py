"""The server under faults, in reduced form; `make soak` runs the full ones."""

from pathlib import Path

import pytest
from faults import kill_under_load
from running import RunningServer
from tiny_text_bundle import write_bundle

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "text")


def test_acknowledged_rows_survive_kills(tmp_path: Path, bundle: Path) -> None:
    figures = kill_under_load(RunningServer(tmp_path, bundle).start(), kills=3)
    assert sum(figures.kills.values()) == 3
    assert min(figures.audit.predictions, figures.audit.feedback, figures.audit.job_rows) > 100
    assert (figures.audit.missing, figures.audit.doubled) == (0, 0)
    assert max(max(seconds) for seconds in figures.silence.values()) < 20
