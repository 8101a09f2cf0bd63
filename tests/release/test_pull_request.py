"""The report of a pull request: recommendation first, all evidence, and user text that can do nothing."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import markdown
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from monitored import make_params, make_windows
from tiny_text_bundle import write_bundle
from typer.testing import CliRunner

from evergreen import cli
from evergreen.monitoring.staleness import Reason, judge
from evergreen.release.champion import ChampionError
from evergreen.release.comparison import Difference
from evergreen.release.feedback import FeedbackSummary
from evergreen.release.gate import ChangedAnswer, Check, GateResult, SliceDifference
from evergreen.release.metrics_report import render_metrics
from evergreen.release.pull_request import MAX_CHARACTERS, DataChange, render_pull_request
from evergreen.text.bundle import Bundle
from evergreen.text.evaluation_metrics import TextMetrics

ROOT = Path(__file__).parents[2]
HOSTILE = (
    "</details> | `x` ``` <img src=x onerror=alert(1)> @everyone &commat;all #1 [a](http://b) <!-- \n# Heading\n--> |"
)
BETTER = {"champion": 0.7, "challenger": 0.8, "value": 0.1, "low": 0.05, "high": 0.15, "n_samples": 700}


def run_git(*arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True).stdout.strip()


def make_gate(passed: bool = True, text: str = "a text", **fields: Any) -> GateResult:
    values: dict[str, Any] = {
        "passed": passed,
        "summary": "The challenger passes all 2 rules." if passed else "The challenger does not pass: slices.",
        "challenger": "text 2 b",
        "champion": "text 1 a",
        "checks": [
            Check(name="newest texts, accuracy", status="passed", message="fine", difference=Difference(**BETTER)),
            Check(name="slices", status="passed" if passed else "failed", message=text),
        ],
        "agreement": 0.9,
        "slices": [
            SliceDifference(**BETTER, slice="topic", name=text),
            SliceDifference(**BETTER | {"low": -0.1}, slice="label", name="neutral"),
        ],
        "changed": [ChangedAnswer(text=text, actual="positive", champion="neutral", challenger="positive", topic=text)],
    }
    return GateResult(**values | fields)


def render(gate: GateResult, bundle: Path, verdict: Any = None) -> str:
    metrics = TextMetrics.load(ROOT / "metrics/text.json")
    feedback = FeedbackSummary(n_samples=40, n_new=30, sources={gate.checks[-1].message: 40}, skipped={"of a video": 2})
    data = [DataChange(split="train", before=100, now=150), DataChange(split="test", before=None, now=20)]
    return render_pull_request(
        gate,
        verdict,
        Bundle.load(bundle).manifest,
        metrics,
        data,
        ["package:a/b.csv"],
        feedback,
        {"Plot": "reports/text/a.png"},
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle") / "text")


def make_verdict(message: str = "Texts differ.") -> Any:
    verdict = judge([], make_windows(10), make_params(), [])
    reason = Reason(status="alarm", message=message, signal="texts", title="Texts", rule="company")
    return verdict.model_copy(update={"reasons": [reason], "summary": "Stale: alarm of texts."})


def test_recommendation_and_gain_come_first(bundle: Path) -> None:
    lines = render(make_gate(), bundle, make_verdict()).splitlines()
    assert lines[0] == "**Merge recommended.** The challenger passes all 2 rules."
    assert lines[1] == (
        "On the 700 newest labeled texts accuracy is **0.800**, the champion's 0.700: +0.100 (+0.050 to +0.150)."
    )
    assert render(make_gate(False), bundle).splitlines()[0] == "**Do not merge.** The challenger does not pass: slices."


def test_report_has_all_that_a_reviewer_asks(bundle: Path) -> None:
    report = render(make_gate(), bundle, make_verdict())
    for part in (
        "Stale: alarm of texts. Window 24 April 2026",
        "- Texts differ.",
        "same answer to 90.0 % of the texts",
        "| topic: a text | 0.700 | 0.800 | +0.100 (+0.050 to +0.150) | 700 |",
        "| a text | a text | positive | neutral | positive ✔ |",
        "| train | 100 | 150 (+50) |",
        "| test | – | 20 |",
        "`package:a/b.csv`",
        "![Plot](reports/text/a.png)",
        "gh pr checkout",
        "git revert",
    ):
        assert part in report, part
    assert "label: neutral" not in report  # chance explains it
    assert "there is no verdict" in render(make_gate(), bundle)


def test_first_release_has_no_champion(bundle: Path) -> None:
    gate = make_gate(champion=None, checks=[Check(name="size", status="passed", message="m")], slices=[], changed=[])
    report = render(gate.model_copy(update={"agreement": None}), bundle)
    assert "there is no champion to compare with" in report.splitlines()[1]
    assert "Both give the same answer" not in report


def check_harmless(report: str) -> None:
    page = markdown.markdown(report, extensions=["tables", "fenced_code", "md_in_html"])
    assert "<img src=x" not in page
    assert "<h1" not in page
    assert 'href="http://b"' not in page
    assert "@everyone" not in report
    assert "&commat;" not in report
    assert "#1 " not in report
    assert report.count("<details") == report.count("</details>\n")


def test_user_text_can_do_nothing(bundle: Path) -> None:
    check_harmless(render(make_gate(text=HOSTILE), bundle, make_verdict(HOSTILE)))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=80))
def test_any_text_stays_in_its_cell(text: str) -> None:
    report = render(make_gate(text=text), BUNDLES[0])
    [row] = [line for line in report.splitlines() if line.endswith("| positive | neutral | positive ✔ |")]
    assert row.replace("\\\\", "").replace("\\|", "").count("|") == 6


BUNDLES: list[Path] = []


@pytest.fixture(autouse=True)
def _share(bundle: Path) -> None:
    BUNDLES[:] = [bundle]  # Hypothesis takes no fixtures of a function


def test_report_fits_into_a_comment(bundle: Path) -> None:
    long = ChangedAnswer(text="x" * 5000, actual="a", champion="b", challenger="a", topic="t")
    slices = [SliceDifference(**BETTER, slice="topic", name=f"{i}" * 900) for i in range(200)]
    checks = [Check(name=f"rule {i}", status="passed", message="m" * 900) for i in range(100)]
    report = render(make_gate(changed=[long] * 100, slices=slices, checks=checks), bundle)
    assert len(report) <= MAX_CHARACTERS + 200
    assert report.endswith("*Cut: the rest is in the run's artifact.*\n")


def test_report_stays_short_with_many_classes_and_topics(bundle: Path) -> None:
    name = "a name of sixty characters that differs from the next by {:04}"
    moved = [SliceDifference(**BETTER, slice="topic", name=name.format(i)) for i in range(1500)]
    moved += [SliceDifference(**BETTER, slice="label", name=name.format(i)) for i in range(150)]
    worse = "; ".join(f"{each.slice} {each.name}: {each}" for each in moved)
    checks = [Check(name="slices", status="failed", message=worse)]
    report = render(make_gate(False, checks=checks, slices=moved), bundle, make_verdict())
    assert len(report) <= 10_000
    assert len(report.splitlines()) <= 100
    assert "1,644 more moved by less; `gate.json` has all." in report
    assert "more moved" not in render(make_gate(), bundle)


@pytest.mark.usefixtures("clean_environment")
def test_metrics_of_many_classes_and_topics_fit_into_a_comment() -> None:
    def commit(seed: int) -> None:
        data = json.loads((ROOT / "metrics/data.json").read_text())
        counts = {name.format(i): seed + i for i in range(40)}
        data["topics"] = {name.format(i): counts for i in range(200)}
        Path("metrics/data.json").write_text(json.dumps(data))
        run_git("add", "-A")
        run_git("commit", "-qm", f"{seed}")

    name = "a name of sixty characters that differs from the next by {:04}"
    Path("metrics").mkdir()
    Path("dvc.yaml").write_text("metrics: [metrics/data.json]\n")
    run_git("init", "-q")
    subprocess.run(["dvc", "init", "-q"], check=True)
    commit(1)
    commit(2)
    report = render_metrics("HEAD~1", "", "HEAD")
    assert len(report) <= 25_000
    assert len(report.splitlines()) <= 120
    rows = sum(line.startswith("| metrics/") for line in report.splitlines())
    assert f"{40 * 200 - rows:,} more rows: `dvc metrics diff HEAD~1`" in report
    assert "more rows" not in render_metrics("HEAD", "", "HEAD")
    with pytest.raises(ChampionError, match=r"origin/mian: no such revision here. Fetch it \(git fetch origin mian\)"):
        render_metrics("origin/mian", "", "HEAD")


@pytest.mark.usefixtures("clean_environment")
def test_plot_that_a_revision_has_not_is_not_shown_of_it() -> None:
    def commit(*names: str) -> str:
        shutil.rmtree("reports", ignore_errors=True)
        Path("reports").mkdir()
        for name in names:
            Path("reports", name).write_bytes(str(names).encode())
        run_git("add", "-A")
        run_git("commit", "-qm", "plots")
        return run_git("rev-parse", "HEAD")

    run_git("init", "-q")
    subprocess.run(["dvc", "init", "-q"], check=True)
    before, now = commit("both.png", "old.png"), commit("both.png", "new.png")
    report = render_metrics("HEAD~1", "https://github.com/a/b", "HEAD")
    shown = set(re.findall(r"!\[(before|now)\]\(https://github.com/a/b/blob/(\w+)/reports/(\S+)\?raw=true\)", report))
    assert shown == {
        ("before", before, "both.png"),
        ("now", now, "both.png"),
        ("before", before, "old.png"),
        ("now", now, "new.png"),
    }


@pytest.mark.usefixtures("clean_environment")
def test_from_the_command_line(bundle: Path) -> None:
    def call(*options: str) -> Any:
        return CliRunner().invoke(cli.app, ["report", "pull-request", "--champion", "HEAD", *options])

    shutil.copy(ROOT / "params.yaml", "params.yaml")
    shutil.copytree(ROOT / "metrics", "metrics")
    shutil.copytree(bundle, "models/text")
    run_git("init", "-q")
    run_git("commit", "-qm", "a", "--allow-empty")
    missing = call()
    assert missing.exit_code == 1
    assert "reports/gate/gate.json: missing. Make it: evergreen gate." in missing.output
    make_gate().save(Path("reports/gate/gate.json"))
    written = call("--out", "out/report.md")
    assert written.exit_code == 0, written.output
    assert Path("out/report.md").read_text().startswith("**Merge recommended.**")
    assert call().output.startswith("**Merge recommended.**")
    misspelled = call("--champion", "origin/mian")
    assert misspelled.exit_code == 1
    assert "origin/mian: no such revision here" in misspelled.output
    Path("reports/gate/gate.json").write_text(json.dumps({"passed": "perhaps"}))
    damaged = call()
    assert damaged.exit_code == 1
    assert "not what evergreen gate writes" in damaged.output
