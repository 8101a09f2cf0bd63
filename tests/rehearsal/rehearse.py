"""The whole life of a model on this machine, offline, told as a page: python tests/rehearsal/rehearse.py [--out FOLDER]

The real workflows under act, Git and DVC with remotes of their own, the service as containers where they can be built,
CML where it is on PATH. GitHub is a stand-in, and weeks pass by a calendar of their own. Run it after `make repro`.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from act import ActResult
from containers import NoEngineError, clone_checkout, find_engine
from loop import ROOT, Calendar, Loop, open_loop, run, set_params
from production import Production, end_servers
from story import Page, Story, capture, capture_file, tail
from traffic import Callers, read_unseen

from evergreen.release.checkpoints import LAST_FILE
from evergreen.text.metrics import TrainingMetrics

LIMITS = ROOT / "docs/rehearsal.md"
PARAMS: dict[str, Any] = {
    # From the champion's weights a retraining takes a third of the time; rate and epochs as in docs/evaluation.md.
    "train.warm_start": "models/champion-weights",
    "train.learning_rate": 1e-4,
    "train.epochs": 2.0,
    # A release is watched for minutes where people ask; here nobody but the rehearsal does.
    "release.watch_minutes": 0.25,
    "release.min_requests": 40,
    "release.probes_per_second": 8.0,
}
LABELS = ("negative", "neutral", "positive")
START = datetime(2026, 3, 9, tzinfo=UTC)
"""A Monday soon after the champion's newest text."""


@dataclass
class Plan:
    """What differs between a rehearsal and its reduced form.

    Attributes:
        old, new: the champion's topic, and one that it never saw.
        per_week: texts.
        labeled: fraction of the new topic's texts that get a label back.
        params: of params.yaml.
        texts: that callers send; None: those of the prepared corpus that were not trained on.
    """

    old: str = "airline"
    new: str = "coachella"
    per_week: int = 420
    labeled: float = 1.0
    params: dict[str, Any] = field(default_factory=lambda: dict(PARAMS))
    texts: pd.DataFrame | None = None


class Rehearsal:
    """The story's steps, in their order; each checks what it claims."""

    def __init__(self, loop: Loop, production: Production, plan: Plan, story: Story) -> None:
        self.loop, self.production, self.plan, self.story = loop, production, plan, story
        self.github, self.calendar = loop.github, loop.calendar
        self.monday = self.calendar.now
        self.variables = {"EVERGREEN_CHECKPOINTS_URL": str(loop.folder.parent / "checkpoints")}
        self.calls: list[tuple[str, dict[str, str]]] = []
        texts = read_unseen(loop.folder / "data/text") if plan.texts is None else plan.texts
        self.callers = Callers(production.url, texts, self.calendar)

    def run(self) -> None:
        """Live through it all."""
        self.deploy_the_champion()
        self.live_a_quiet_week()
        self.go_stale()
        self.look_twice()
        self.lose_a_retraining()
        self.retrain()
        self.retrain_twice()
        self.review()
        self.release_what_does_not_hold()
        self.lose_a_release()
        self.release()
        self.be_fresh_again()
        self.refuse_what_random_labels_teach()

    # The steps

    def deploy_the_champion(self) -> None:
        tag = f"ghcr.io/{self.github.repository}:champion"
        self._call("docker/build", tag)
        # What a push to a registry would name.
        image = self._call("docker", "inspect", "--format", "{{index .RepoDigests 0}}", tag).strip()
        self._call("docker/deploy", "compose", image)
        self.production.prepare_layers(ROOT)
        model = self.production.read_model()
        self._tell("work", "The champion is in production", f"`{image}` serves model `{model['run'][:12]}`.")

    def live_a_quiet_week(self) -> None:
        accuracy = self._live(self.plan.old)
        result = self._look()
        assert self.github.open_issues == []
        assert self.github.dispatches == []
        text = f"{self.plan.per_week} texts about {self.plan.old}; {accuracy:.0%} of the answers are right. Nobody is told."
        self._tell(
            "good", "A week like those before: fresh", text, result, pages=[self._capture_report()], mark="fresh"
        )

    def go_stale(self) -> None:
        accuracy = self._live(self.plan.new)
        killed = self._act("schedule", "monitor.yml", kill_at=_is_at("Start a retraining, when stale"))
        assert killed.returncode != 0
        assert self.github.dispatches == []
        result = self._look()
        (issue,) = self.github.open_issues
        assert issue["title"].startswith("The text model is stale")
        assert [call["workflow"] for call in self.github.dispatches] == ["retrain.yml"]
        text = (
            f"{self.plan.per_week} texts about {self.plan.new}, which the champion never saw; {accuracy:.0%} are right. "
            "The monitor opens one issue; its runner is taken away, and the next run starts the retraining."
        )
        pages = [self._capture("the issue", f"/issues/{issue['number']}", True), self._capture_report()]
        self._tell("bad", "Another topic: stale", text, result, pages=pages, mark="stale")

    def look_twice(self) -> None:
        self._look()
        assert len(self.github.issues) == 1
        self._tell("good", "The monitor runs once more", "Still one issue: nothing is doubled.")

    def lose_a_retraining(self) -> None:
        def is_half_way(line: str) -> bool:
            return self._has_checkpoint() or "Running stage 'evaluate'" in line

        killed = self._act("workflow_dispatch", "retrain.yml", variables=self.variables, kill_at=is_half_way)
        assert killed.returncode != 0
        assert self.github.open_pulls == []
        left = "a checkpoint is kept elsewhere" if self._has_checkpoint() else "it left no checkpoint yet"
        text = f"Half-way; nothing is proposed, and {left}."
        self._tell("bad", "The machine that retrains is taken away", text, killed)

    def retrain(self) -> None:
        resumes = self._has_checkpoint()
        result = self._act("workflow_dispatch", "retrain.yml", variables=self.variables)
        assert result.returncode == 0, result.explain()
        training = TrainingMetrics.load(self.loop.folder / "metrics/training.json")
        assert (training.resumed_from_step > 0) == resumes, result.explain()
        (pull,) = self.github.open_pulls
        (comment,) = self.github.comments[pull["number"]]
        assert "**Merge recommended.**" in comment["body"]
        text = f"A machine {'resumes from the checkpoint' if resumes else 'trains'} and proposes the model: one pull request."
        self._tell("good", "Retrained and proposed", text, result, pages=[self._capture_pull(True)], mark="proposed")

    def retrain_twice(self) -> None:
        (pull,) = self.github.open_pulls
        again = self._act("workflow_dispatch", "retrain.yml")
        assert again.returncode == 0, again.explain()
        assert len(self.github.pulls) == 1
        assert len(self.github.comments[pull["number"]]) == 1
        self._tell("good", "The retraining runs once more", "Still one pull request with one report.")

    def review(self) -> None:
        (pull,) = self.github.open_pulls
        fields = {
            "revision": pull["head"]["sha"],
            "payload": {"pull_request": pull, "number": pull["number"]},
            "env": {"GITHUB_BASE_REF": "main"},
        }
        killed = self._act("pull_request", "ci.yml", job="report", kill_at=_is_at("Comment"), **fields)
        assert killed.returncode != 0
        for job in ("pipeline", "report"):
            result = self._act("pull_request", "ci.yml", job=job, **fields)
            assert result.returncode == 0, result.explain()
        assert len(self.github.comments[pull["number"]]) == 2
        text = (
            "`ci.yml` confirms that `dvc.lock` fits, and compares the metrics in a second comment; a machine is taken away as it "
            "comments, and the next one comments once."
        )
        self._tell("good", "The proposal's checks pass", text, result, pages=[self._capture_pull()])
        self.github.login = "ann"
        self.github.merge(pull["number"])
        self.github.login = "evergreen-bot"
        self._tell("person", "Ann reads the report and merges", "Merging is what releases.", mark="merged")

    def release_what_does_not_hold(self) -> None:
        before = self.production.read_model()["run"]
        champion = self.loop.folder.parent / "champion"
        self.loop.check_out("origin/main")
        self.loop.dvc("get", "-q", "--rev", "HEAD^1", ".", "models/text", "--out", str(champion))
        self.production.mount_text_bundle(champion)
        result = self._release("push")
        assert result.returncode == 1
        assert "the release does not hold" in result.output, result.explain()
        assert self.production.read_model()["run"] == before
        assert self.github.releases == []
        (issue,) = [issue for issue in self.github.open_issues if "release" in issue["title"]]
        text = (
            "Where the service runs, somebody's volume still lies over the new image's model. The container answers, but "
            "not as its bundle does: verification fails, the version before goes on, and an issue says so."
        )
        page = self._capture("the issue", f"/issues/{issue['number']}")
        self._tell("bad", "A release that does not hold is rolled back", text, result, pages=[page], mark="rolled back")

    def lose_a_release(self) -> None:
        self.production.mount_text_bundle(None)
        killed = self._release("workflow_dispatch", kill_at=_is_at("Verify"))
        assert killed.returncode != 0
        assert self.github.releases == []
        text = (
            "The volume is gone. Between switch and verification: the new version answers, and nobody has verified it."
        )
        self._tell("bad", "The machine that releases is taken away", text, killed)

    def release(self) -> None:
        self.production.mount_text_bundle(None)
        result = self._release("workflow_dispatch")
        assert result.returncode == 0, result.explain()
        manifest = json.loads((self.loop.folder / "models/text/bundle.json").read_text())
        assert self.production.read_model()["run"] == manifest["run"]
        (release,) = self.github.releases
        assert self.github.open_issues == []
        again = self._release("push", job="plan")
        assert "Nothing to release" in again.output, again.explain()
        text = (
            "Built, smoke-tested, started beside the old one, switched, verified; the incident is closed. One more run finds "
            "nothing to release."
        )
        number = self.github.issues[0]["number"]
        pages = [
            self._capture("the release", f"/releases/tag/{release['tag_name']}", True),
            self._capture("the incident, closed", f"/issues/{number}"),
        ]
        self._tell("good", "Released", text, result, pages=pages, mark="released")

    def be_fresh_again(self) -> None:
        accuracy = self._live(self.plan.new)
        result = self._look()
        assert self.github.open_issues == [], result.explain()
        text = f"The same topic; now {accuracy:.0%} are right."
        self._tell("good", "Fresh again", text, result, pages=[self._capture_report()], mark="fresh again")

    def refuse_what_random_labels_teach(self) -> None:
        self._live(self.plan.new, spoil=lambda _, rng: str(rng.choice(LABELS)))
        self._look()
        result = self._act("workflow_dispatch", "retrain.yml")
        assert result.returncode == 0, result.explain()
        assert self.github.open_pulls == []
        assert len(self.github.releases) == 1
        assert "Not proposed" in result.output, result.explain()
        text = (
            "The same topic once more, but the annotators label at random. A model is trained on these labels, and the gate "
            "refuses it: no pull request. "
        )
        pages = []
        for issue in self.github.open_issues:  # where enough labels came for an alarm
            text += "The incident's issue says why, and a person finds the annotators."
            evidence = self.github.comments[issue["number"]][-1]["body"]
            assert "Not proposed" in evidence, evidence
            pages.append(self._capture("the issue, with the evidence", f"/issues/{issue['number']}", True))
        self._tell("bad", "Labels gone wrong: the gate refuses", text, result, pages=pages, mark="refused")

    # What they are made of

    def _has_checkpoint(self) -> bool:
        return any(Path(self.variables["EVERGREEN_CHECKPOINTS_URL"]).rglob(LAST_FILE))

    def _live(self, topic: str, **fields: Any) -> float:
        accuracy = self.callers.live_week(self.monday, topic, self.plan.per_week, self.plan.labeled, **fields)
        self.monday += timedelta(days=7)
        return accuracy

    def _look(self) -> ActResult:
        result = self._act("schedule", "monitor.yml")
        assert result.returncode == 0, result.explain()
        return result

    def _release(self, event: str, **fields: Any) -> ActResult:
        variables = {"DEPLOY_TARGET": "compose", "SERVICE_URL": self.production.url}
        return self._act(event, "release.yml", variables=variables, timeout=1200, **fields)

    def _act(self, event: str, workflow: str, **fields: Any) -> ActResult:
        result = self.loop.act(event, workflow, **fields)
        self.calls += result.calls
        return result

    def _call(self, *command: str) -> str:
        return run(self.loop.folder, *command, **self.loop.environment)

    def _capture(self, title: str, path: str, open: bool = False) -> Page:
        return capture(title, self.github.show_page, f"/{self.github.repository}{path}", open)

    def _capture_pull(self, open: bool = False) -> Page:
        (pull,) = self.github.open_pulls
        return self._capture("the pull request", f"/pull/{pull['number']}", open)

    def _capture_report(self) -> Page:
        return capture_file("the monitor's report", self.loop.folder / "reports/monitoring/report.html")

    def _tell(self, kind: Any, title: str, text: str, result: ActResult | None = None, **more: Any) -> None:
        self.story.tell(self.calendar.now, kind, title, text, output=tail(result.output) if result else "", **more)


def _is_at(step: str) -> Callable[[str], bool]:
    """Whether a line of act's output says that a step of this name begins."""
    return lambda line: line.rstrip().endswith(f"Run Main {step}")


def copy_checkout(target: Path) -> None:
    """Clone this checkout as it stands, with what `dvc repro` has left."""
    if not (ROOT / "models/text/bundle.json").is_file():
        sys.exit("There is no model yet: run make repro first.")
    clone_checkout(target)
    # This checkout's cache is read only: what a rehearsal makes stays in its own folder.
    run(target, "dvc", "remote", "add", "-q", "--local", "checkout", str(ROOT / ".dvc/cache"))
    run(target, "dvc", "pull", "-q", "--remote", "checkout")


@contextmanager
def open_rehearsal(checkout: Path, plan: Plan, engine: Mapping[str, str], story: Story) -> Iterator[Rehearsal]:
    """A rehearsal for the length of a block.

    Args:
        checkout: a repository with a trained champion, in a folder of its own; everything is put beside it.
        plan: what is lived through.
        engine: see `Production`.
        story: what happened.
    """
    folder = checkout.parent
    set_params(checkout / "params.yaml", plan.params)
    calendar = Calendar(folder / "calendar")
    calendar.set(START)
    engine = dict(engine)
    if engine:  # containers follow the calendar as well
        more = f"--volume {calendar.folder}:{calendar.folder}:ro --env PYTHONPATH={calendar.folder}"
        engine["RUN_FLAGS"] = f"{engine.get('RUN_FLAGS', '')} {more}"
    production = Production(folder / "production", engine)
    with ExitStack() as stack:
        stack.callback(production.close)
        loop = stack.enter_context(open_loop(checkout, calendar, production.environment, production.log_url))
        yield Rehearsal(loop, production, plan, story)


def main() -> None:
    """Rehearse, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / ".rehearsal", help="folder that is made anew")
    parser.add_argument("--processes", action="store_true", help="no containers, also where they can be built")
    args = parser.parse_args()
    args.out = args.out.absolute()
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # as make has it
    engine, where = {}, "The service ran as processes, as no container is asked for."
    if not args.processes:
        try:
            name, flags = find_engine()
            engine, where = {"ENGINE": name} | flags, f"The service ran in containers of {name}."
        except NoEngineError as error:
            where = f"The service ran as processes, since no container can be built here ({error})."
    where += (
        " CML opened the pull request."
        if shutil.which("cml")
        else " Without cml, the REST API opened the pull request."
    )
    print(where, flush=True)
    # Ended as by Ctrl-C, so that no server is left; what an earlier one left that was killed ends now.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    end_servers(args.out / "work/production")
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    checkout = args.out / "work" / "evergreen"
    checkout.parent.mkdir()
    copy_checkout(checkout)
    limits = re.search(r"^## What cannot be shown.*", LIMITS.read_text(), re.MULTILINE | re.DOTALL)
    assert limits is not None, LIMITS
    story = Story(where, limits[0].replace("](", f"]({os.path.relpath(LIMITS.parent, args.out)}/"))
    page = args.out / "story.html"
    with open_rehearsal(checkout, Plan(), engine, story) as rehearsal:
        try:
            rehearsal.run()
        finally:
            if story.events:
                story.write(page, rehearsal.callers.accuracy)
                print(f"The story: {page}", flush=True)


if __name__ == "__main__":
    main()
