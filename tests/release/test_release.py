"""Plan, check and finish a release: in a repository with DVC, at the stand-in for GitHub, with a real MLflow."""

import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from gated_repository import run, write_metrics
from github_server import TOKEN, GitHubServer, serve_github
from tiny_text_bundle import LABELS, write_bundle

from evergreen import tracking
from evergreen.bundle import hash_files
from evergreen.github import RetryPolicy
from evergreen.release.finish import describe_model, publish
from evergreen.release.golden import GoldenSet, ServedModel
from evergreen.release.lock import Bundles, Commit, LockError
from evergreen.release.plan import Plan, choose_tag, make_plan
from evergreen.release.registry import move_champion
from evergreen.release.releases import Release, Releases
from evergreen.settings import ReleaseSettings, Settings
from evergreen.text.bundle import Bundle
from evergreen.text.splits import SPLITS

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("clean_environment")]

ROOT = Path(__file__).parents[2]
POLICY = RetryPolicy(tries=3, first_wait=0.0, longest_wait=1.0, deadline=60.0, seconds_between_writes=0.0)
IMAGE = f"ghcr.io/acme/reviews@sha256:{'1' * 64}"
OLD_IMAGE = f"ghcr.io/acme/reviews@sha256:{'0' * 64}"
MODEL = ServedModel(name="text", version="0.1.0", run="f" * 32, data_hash="d" * 64, sha256={})
LOCK = "schema: '2.0'\nstages:\n  train:\n    outs:\n    - {{path: models/text, md5: {text}.dir}}\n    - {{path: models/video, md5: {video}.dir}}\n"
COMMIT = Commit("c" * 40, datetime(2026, 6, 1, 12, tzinfo=UTC))
BUNDLES = Bundles("a" * 32, "b" * 32)


@pytest.fixture
def github() -> Iterator[GitHubServer]:
    with serve_github() as server:
        yield server


def make_settings(github: GitHubServer, **more: str) -> ReleaseSettings:
    names = {"GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": "acme/reviews", "GITHUB_API_URL": github.url}
    return ReleaseSettings(**names | more)


def describe_environment(github: GitHubServer) -> dict[str, str]:
    return {"GITHUB_TOKEN": TOKEN, "GITHUB_REPOSITORY": "acme/reviews", "GITHUB_API_URL": github.url}


def commit_lock(folder: Path, text: str, video: str = "b" * 32) -> str:
    """Commit a dvc.lock that names bundles, and return the commit."""
    if not (folder / ".git").exists():
        folder.mkdir(exist_ok=True)
        run(folder, "git", "init", "-q", "-b", "main")
        write_metrics(folder)
        (folder / "metrics/data.json").write_text((ROOT / "metrics/data.json").read_text())
    (folder / "dvc.lock").write_text(LOCK.format(text=text, video=video))
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "a model")
    return run(folder, "git", "rev-parse", "HEAD").stdout.strip()


def plan(releases: list[Release], **environment: str) -> Plan:
    settings = ReleaseSettings(GITHUB_REPOSITORY="Acme/Reviews", **environment)
    return make_plan(COMMIT, BUNDLES, releases, settings, "ghcr.io")


def make_release(tag: str = "model-2026.05.01-00000000", text: str = "0" * 32, video: str = "b" * 32) -> Release:
    return Release(tag, "d" * 40, Bundles(text, video), OLD_IMAGE)


def test_changed_bundle_is_released() -> None:
    made = plan([make_release()])
    assert made.proceed
    assert made.tag == "model-2026.06.01-aaaaaaaa"
    assert made.previous == OLD_IMAGE
    assert (made.image, made.monitor_image) == ("ghcr.io/acme/reviews", "ghcr.io/acme/reviews-monitor")
    assert plan([]).proceed
    assert plan([]).previous == ""
    assert "video bundle changed" in plan([make_release(text="a" * 32, video="none")]).reason


def test_same_bundles_are_released_only_when_somebody_asks() -> None:
    last = make_release(text="a" * 32)
    assert not plan([last]).proceed
    assert plan([last], GITHUB_EVENT_NAME="workflow_dispatch").proceed
    tagged = plan([last], GITHUB_REF_TYPE="tag", GITHUB_REF_NAME="v1.4.0")
    assert (tagged.proceed, tagged.tag) == (True, "v1.4.0")
    assert not plan([last], GITHUB_REF_TYPE="branch", GITHUB_REF_NAME="main").proceed


def test_tag_is_the_same_for_the_same_commit_and_another_for_another() -> None:
    name = choose_tag(COMMIT, BUNDLES, [])
    same = Release(name, COMMIT.sha, BUNDLES, IMAGE)
    assert choose_tag(COMMIT, BUNDLES, [same]) == name
    assert plan([same, make_release()]).previous == OLD_IMAGE  # never itself
    other = Release(name, COMMIT.sha, Bundles("a" * 32, "e" * 32), IMAGE)
    assert choose_tag(COMMIT, BUNDLES, [other]) == f"{name}-2"


def test_plan_is_left_for_the_workflow(github: GitHubServer, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    commit_lock(folder, "a" * 32)
    Releases(make_settings(github), POLICY).write("v1", "main", "Notes", Bundles("0" * 32, "b" * 32), OLD_IMAGE)
    output = tmp_path / "output"
    environment = describe_environment(github) | {"GITHUB_OUTPUT": str(output)}
    result = run(folder, "evergreen", "release", "plan", **environment)
    assert result.returncode == 0, result.stderr
    assert "The text bundle changed since v1." in result.stdout
    lines = output.read_text().splitlines()
    values = {name.partition("<<")[0]: value for name, value in zip(lines[::3], lines[1::3], strict=True)}
    assert values["release"] == values["proceed"] == "true"
    assert values["tag"].endswith("-aaaaaaaa")
    assert values["previous"] == OLD_IMAGE
    assert values["image"] == "ghcr.io/acme/reviews"
    unknown = run(folder, "evergreen", "release", "plan", "--ref", "mian")
    assert unknown.returncode == 1
    assert "mian: no such revision" in unknown.stderr


def test_revision_without_a_bundle_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "repository"
    commit_lock(folder, "a" * 32)
    monkeypatch.chdir(folder)
    assert Bundles.of("HEAD") == BUNDLES
    for content in ("stages: {}\n", "stages: [", "- 1\n"):
        (folder / "dvc.lock").write_text(content)
        run(folder, "git", "commit", "-qam", "broken")
        with pytest.raises(LockError):
            Bundles.of("HEAD")


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A repository with data, a bundle made from it, and a dvc.lock that names both."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    run(folder, "git", "init", "-q", "-b", "main")
    run(folder, "dvc", "init", "-q")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    stages = "".join(
        f"  {name}:\n    cmd: 'true'\n    outs: [{out}]\n" for name, out in (("a", "data/text"), ("b", "models/text"))
    )
    (folder / "dvc.yaml").write_text(f"stages:\n{stages}")
    (folder / "data/text").mkdir(parents=True)
    files = []
    for split in SPLITS:
        rows = {
            "text": [f"word{i} {split}" for i in range(60)],
            "label": [LABELS[i % 3] if i < 30 else LABELS[0] for i in range(60)],
        }
        files.append(folder / f"data/text/{split}.parquet")
        pd.DataFrame(rows).to_parquet(files[-1])
    bundle = Bundle.load(write_bundle(folder / "models/text"))
    (bundle.folder / "bundle.json").unlink()
    Bundle.write(bundle.folder, bundle.manifest.model_copy(update={"data_hash": hash_files(*files), "sha256": {}}))
    committed = run(folder, "dvc", "commit", "--quiet", "--force")
    assert committed.returncode == 0, committed.stderr
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "a model")
    return folder


def test_bundle_that_was_pulled_passes(pipeline: Path) -> None:
    result = run(pipeline, "evergreen", "release", "check")
    assert result.returncode == 0, result.stderr
    assert "every file as its manifest says" in result.stdout


def test_all_problems_come_at_once(pipeline: Path) -> None:
    with (pipeline / "models/text/model.onnx").open("ab") as file:
        file.write(b"x")
    (pipeline / "data/text/test.parquet").unlink()
    result = run(pipeline, "evergreen", "release", "check")
    assert result.returncode == 1
    for part in ("model.onnx: changed", "models/text: modified", "data/text: modified"):
        assert part in result.stderr, result.stderr


def test_bundle_of_other_data_is_refused(pipeline: Path) -> None:
    (pipeline / "data/text/test.parquet").write_bytes((pipeline / "data/text/train.parquet").read_bytes())
    run(pipeline, "dvc", "commit", "--quiet", "--force")
    run(pipeline, "git", "commit", "-qam", "other data")
    result = run(pipeline, "evergreen", "release", "check")
    assert result.returncode == 1
    assert "made from other data" in result.stderr


def test_golden_texts_are_spread_over_the_labels(pipeline: Path) -> None:
    first = run(pipeline, "evergreen", "release", "golden")
    assert first.returncode == 0, first.stderr
    file = pipeline / "reports/release/golden.json"
    golden = GoldenSet.load(file)
    assert len({sample.text for sample in golden.samples}) == 20
    rows = pd.read_parquet(pipeline / "data/text/test.parquet").drop_duplicates("text").set_index("text")["label"]
    counts = rows[[sample.text for sample in golden.samples]].value_counts()
    assert counts.min() >= 6
    content = file.read_text()
    run(pipeline, "evergreen", "release", "golden")
    assert file.read_text() == content  # the same each time


def test_release_has_notes_and_is_written_once(
    github: GitHubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "repository"
    before = commit_lock(folder, "0" * 32)
    run(folder, "git", "tag", "v1")
    write_metrics(folder, size_mb=12.5)
    commit = commit_lock(folder, "a" * 32)
    monkeypatch.chdir(folder)
    settings = make_settings(github)
    github.refs.set("heads/main", before)
    Releases(settings, POLICY).write("v1", before, "First.", Bundles("0" * 32, "b" * 32), OLD_IMAGE)
    github.refs.set("heads/main", commit)
    model = GoldenSet(text_model=MODEL, video_model=None, data_cutoff="2026-03-01T00:00:00+00:00", samples=[])
    published = publish(settings, "v2", IMAGE, True, model)
    assert published.changed == ("text",)
    [_, release] = github.releases
    body = release["body"]
    assert release["target_commitish"] == commit
    for part in (
        "Deployed, and verified in place",
        "| text: size of the bundle | 24.",
        "| 12.5 MB |",
        "Newest text: 2026-03-01",
        f"cosign verify {IMAGE}",
        "/acme/reviews/.github/workflows/release.yml@refs/heads/main",
        f"docker/deploy --rollback compose {OLD_IMAGE}",
        f"<!-- evergreen-release: text={'a' * 32} video={'b' * 32} image={IMAGE} -->",
    ):
        assert part in body, part
    [n_writes] = [sum(not request.startswith("GET") for request in github.requests)]
    publish(settings, "v2", IMAGE, True, model)
    assert github.releases[1]["body"] == body
    assert sum(not request.startswith("GET") for request in github.requests) == n_writes
    [newest, *_] = Releases(settings, POLICY).find()
    assert newest == Release("v2", commit, BUNDLES, IMAGE)


def test_what_somebody_wrote_stays(github: GitHubServer) -> None:
    releases = Releases(make_settings(github), POLICY)
    releases.repository.create_git_release("v3", "Spring", "By hand.\r\n\r\n- **bold**", target_commitish="main")
    assert releases.find() == []  # not one of ours
    for notes in ("Ours.", "Ours, again."):
        releases.write("v3", "main", notes, BUNDLES, IMAGE)
    [release] = github.releases
    assert release["name"] == "Spring"
    assert release["body"].startswith("By hand.\n\n- **bold**\n\n<!-- evergreen-release-notes -->\nOurs, again.\n")
    assert release["body"].count("evergreen-release:") == 1


@pytest.mark.parametrize("fault", ["502 after", "reset after", "500", "429"])
def test_lost_answer_makes_no_second_release(github: GitHubServer, fault: str) -> None:
    releases = Releases(make_settings(github), POLICY)
    faults = iter(["", fault])  # the second request writes
    github.next_fault = lambda _path: next(faults, "") or None  # type: ignore[assignment,return-value]
    releases.write("v1", "main", "Notes", BUNDLES, IMAGE)
    assert len(github.releases) == 1


def record_version(settings: Settings, key: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "bundle.json").write_text(json.dumps({"run": key}))
    assert tracking.record(tracking.Run(key=key, name="text", bundle=folder), settings).sent == 1


def test_alias_moves_to_the_version_of_the_run(tmp_path: Path) -> None:
    settings = Settings(EVERGREEN_STATE_DIR=tmp_path / "state")
    assert "no registry here" in move_champion(MODEL, settings).message
    for key in ("e" * 32, "f" * 32):
        record_version(settings, key, tmp_path / "bundle")
    client = mlflow.MlflowClient(settings.tracking_uri)
    for key in ("f" * 32, "e" * 32, "f" * 32):
        model = MODEL.model_copy(update={"run": key})
        result = move_champion(model, settings)
        assert result.moved
        assert result.message.endswith("is champion now")
        assert move_champion(model, settings).message.endswith("is champion already")
        version = client.get_model_version_by_alias("evergreen-text", "champion")
        assert version.tags["evergreen.run"] == key
    unknown = move_champion(MODEL.model_copy(update={"run": "0" * 32}), settings)
    assert not unknown.moved
    assert "no version of run 000000000000" in unknown.message


def test_release_stands_without_a_registry(tmp_path: Path) -> None:
    settings = Settings(
        EVERGREEN_STATE_DIR=tmp_path, MLFLOW_TRACKING_URI="http://127.0.0.1:9", EVERGREEN_TRACKING_TIMEOUT=0.2
    )
    result = move_champion(MODEL, settings)
    assert not result.moved
    assert "the registry can't be used" in result.message


def finish(folder: Path, github: GitHubServer, *options: str, **more: str) -> "subprocess.CompletedProcess[str]":
    command = ["evergreen", "release", "finish", "--tag", "v2", "--image", IMAGE, *options]
    return run(folder, *command, **describe_environment(github), **more)


def test_finish_twice_changes_nothing(github: GitHubServer, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    github.refs.set("heads/main", commit_lock(folder, "a" * 32))
    golden = GoldenSet(text_model=MODEL, video_model=None, data_cutoff="2026-03-01T00:00:00+00:00", samples=[])
    golden.save(folder / "reports/release/golden.json")
    body = "<!-- evergreen-incident: text digest=abc -->\nStale"
    github.labels["evergreen-staleness"] = {"name": "evergreen-staleness"}
    incident = github.add_issue(title="Stale", body=body, labels=["evergreen-staleness"])
    state = tmp_path / "state"
    record_version(Settings(EVERGREEN_STATE_DIR=state), MODEL.run, tmp_path / "bundle")
    first = finish(folder, github, "--verified", EVERGREEN_STATE_DIR=str(state))
    assert first.returncode == 0, first.stderr
    assert "is champion now" in first.stdout
    assert github.open_issues == []
    comments = json.dumps(github.comments[incident["number"]])
    assert "Release v2 was verified." in comments
    n_writes = sum(not request.startswith("GET") for request in github.requests)
    second = finish(folder, github, "--verified", EVERGREEN_STATE_DIR=str(state))
    assert second.returncode == 0, second.stderr
    assert "is champion already" in second.stdout
    assert "none is open" in second.stdout
    assert sum(not request.startswith("GET") for request in github.requests) == n_writes
    assert len(github.releases) == 1


def test_finish_warns_and_says_what_is_missing(github: GitHubServer, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    github.refs.set("heads/main", commit_lock(folder, "a" * 32))
    result = finish(folder, github)
    assert result.returncode == 0, result.stderr
    assert "warning: no alias was moved" in result.stdout
    assert "not verified in place" in github.releases[0]["body"]
    for wrong in (("--image", "ghcr.io/acme/reviews:latest"), ("--tag", "v1`$(x)`")):
        refused = finish(folder, github, *wrong)
        assert refused.returncode == 2
        assert wrong[0] in refused.stderr
    assert (
        run(folder, "evergreen", "release", "finish", "--tag", "v2", "--image", IMAGE).returncode == 1
    )  # no repository


def test_bundles_on_disk_do_as_well_as_a_golden_set(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(pipeline)
    model = describe_model(Path("reports/release/golden.json"))
    assert model is not None
    assert str(model.text_model) == "text 0.1.0 ffffffffffff"
