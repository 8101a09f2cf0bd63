"""The gate: may the challenger replace the champion? Every rule with its figures, its limit and its examples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from evergreen.metrics import Metrics
from evergreen.params import EvaluateParams, GateParams
from evergreen.release.comparison import Answers, Difference, compare_accuracy, compare_macro_f1
from evergreen.text.evaluation import measure_calibration, name_lengths
from evergreen.text.runtime import Classifier, Floats
from evergreen.video.metrics import VideoMetrics

CheckStatus = Literal["passed", "failed", "skipped"]


class Check(Metrics):
    """One rule of the gate.

    Attributes:
        status: `skipped` where there is nothing to compare; the message says why.
        message: the finding and the limit, in a sentence.
        difference: what was compared; None where it is a single figure.
    """

    name: str
    status: CheckStatus
    message: str
    difference: Difference | None = None


class SliceDifference(Difference):
    """Accuracy of both models on a slice of the test set."""

    slice: str
    """What divides the texts: topic, length or label."""
    name: str


class ChangedAnswer(Metrics):
    """A text that both models answer differently."""

    text: str
    actual: str
    champion: str
    challenger: str
    topic: str


class GateResult(Metrics):
    """`reports/gate/gate.json`.

    Attributes:
        passed: whether no rule failed.
        summary: in one sentence.
        champion: None where there is none to compare with.
        agreement: fraction of the test texts with the same answer.
        slices: those with enough examples, the most changed first.
        changed: texts whose answer changed, corrections and new errors in turns.
    """

    passed: bool
    summary: str
    challenger: str
    champion: str | None
    checks: list[Check]
    agreement: float | None
    slices: list[SliceDifference]
    changed: list[ChangedAnswer]


@dataclass(frozen=True)
class TestSet:
    """The challenger's test set with the answers of both models.

    Attributes:
        rows: with `text`, `label`, `observed_at` and `topic`.
        answers: of both models for each row.
        y_proba: of both models, shape [2, rows, labels].
        is_new: rows newer than all that the champion was trained on.
    """

    __test__ = False  # no test case

    rows: pd.DataFrame
    answers: Answers
    y_proba: tuple[Floats, Floats]
    is_new: NDArray[np.bool_]
    labels: list[str]

    @classmethod
    def predict(cls, rows: pd.DataFrame, champion: Classifier, challenger: Classifier) -> "TestSet":
        """Ask both models.

        Args:
            rows: of the test split of the challenger's data, which neither model was trained on.
            champion, challenger: the champion may lack labels; it is then wrong about them.
        """
        labels = challenger.labels
        codes = {label: code for code, label in enumerate(labels)}
        texts = rows["text"].tolist()
        y_proba = tuple(model.predict_proba(texts) for model in (champion, challenger))
        named = [
            [model.labels[code] for code in proba.argmax(1)]
            for model, proba in zip((champion, challenger), y_proba, strict=True)
        ]
        answers = Answers(
            np.array([codes[label] for label in rows["label"]], np.int64),
            *(np.array([codes.get(label, -1) for label in names], np.int64) for names in named),
        )
        cutoff = pd.Timestamp(champion.manifest.data_cutoff)
        return cls(rows, answers, (y_proba[0], y_proba[1]), (rows["observed_at"] > cutoff).to_numpy(), labels)


def judge_champion(
    test: TestSet, params: GateParams, evaluate: EvaluateParams, seed: int
) -> tuple[list[Check], list[SliceDifference]]:
    """Compare both models' answers: on what is new, on what is not, on slices, and their calibration."""
    new, frozen = test.answers.select(test.is_new), test.answers.select(~test.is_new)
    n_labels = len(test.labels)
    checks = [_judge_newest(new, params, seed)]
    compare: dict[str, Callable[[Answers], Difference]] = {
        "accuracy": lambda answers: compare_accuracy(answers, params.alpha, params.n_resamples, seed),
        "macro-F1": lambda answers: compare_macro_f1(answers, n_labels, params.alpha, params.n_resamples, seed),
    }
    for measure, function in compare.items():
        name = f"frozen test set, {measure}"
        if not len(frozen):
            checks.append(Check(name=name, status="skipped", message="No test text is as old as the champion's data."))
            continue
        difference = function(frozen)
        passed = difference.low > -params.max_loss
        message = f"{difference}; the lower bound must be above {-params.max_loss:+.3f}."
        checks.append(Check(name=name, status=_get_status(passed), message=message, difference=difference))
    slices = compare_slices(test, params, evaluate, seed)
    checks.append(_judge_slices(slices, params))
    checks.append(_judge_calibration(test, params, evaluate))
    return checks, slices


def _judge_newest(new: Answers, params: GateParams, seed: int) -> Check:
    name = "newest texts, accuracy"
    if len(new) < params.min_new_samples:
        return Check(
            name=name,
            status="failed",
            message=f"{len(new)} test texts are newer than the champion's data, {params.min_new_samples} are needed to "
            "show that the challenger is better. Collect more feedback.",
        )
    difference = compare_accuracy(new, params.alpha, params.n_resamples, seed)
    passed = difference.low > params.min_gain
    message = f"{difference}; the lower bound must be above {params.min_gain:+.3f}."
    return Check(name=name, status=_get_status(passed), message=message, difference=difference)


def compare_slices(test: TestSet, params: GateParams, evaluate: EvaluateParams, seed: int) -> list[SliceDifference]:
    """Compare accuracy on every slice of enough examples, by topic, length and label; the most changed first.

    The bounds hold for all slices together (Bonferroni).
    """
    columns = {
        "topic": test.rows["topic"],
        "length": name_lengths(test.rows["text"], evaluate.length_edges),
        "label": test.rows["label"],
    }
    masks = {
        (kind, str(name)): mask
        for kind, column in columns.items()
        for name in pd.unique(column)
        if (mask := (column == name).to_numpy()).sum() >= params.min_slice_samples
    }
    slices = []
    for (kind, name), mask in masks.items():
        difference = compare_accuracy(test.answers.select(mask), params.alpha / len(masks), params.n_resamples, seed)
        slices.append(SliceDifference(**difference.model_dump(), slice=kind, name=name))
    return sorted(slices, key=lambda each: (-abs(each.value), each.slice, each.name))


def _judge_slices(slices: Sequence[SliceDifference], params: GateParams) -> Check:
    """A slice fails that is surely worse, and by more than the margin: small ones would fail by chance otherwise."""
    worse = [each for each in slices if each.value < -params.max_slice_loss and each.high < 0]
    rule = f"more than {params.max_slice_loss:.3f} worse, surely for all {len(slices)} slices together"
    if worse:
        named = "; ".join(f"{each.slice} {each.name}: {each}, {each.n_samples:,} texts" for each in worse)
        return Check(name="slices", status="failed", message=f"{named}. None may be {rule}.")
    return Check(name="slices", status="passed", message=f"None is {rule}.")


def _judge_calibration(test: TestSet, params: GateParams, evaluate: EvaluateParams) -> Check:
    if test.y_proba[0].shape != test.y_proba[1].shape:
        return Check(name="calibration", status="skipped", message="The champion has other labels.")
    errors = [measure_calibration(test.answers.y_true, y_proba, evaluate).ece for y_proba in test.y_proba]
    passed = errors[1] <= errors[0] + params.max_calibration_loss
    figures = f"calibration error {errors[1]:.3f}, the champion's {errors[0]:.3f}"
    message = f"{figures}; at most {params.max_calibration_loss:.3f} more."
    return Check(name="calibration", status=_get_status(passed), message=message)


def judge_budget(size_mb: float, training_cost: float, currency: str, params: GateParams) -> list[Check]:
    """Compare size and price of the training with their limits."""
    return [
        Check(
            name="size",
            status=_get_status(size_mb <= params.max_size_mb),
            message=f"{size_mb:.1f} MB; at most {params.max_size_mb:g} MB.",
        ),
        Check(
            name="cost of the training",
            status=_get_status(training_cost <= params.max_training_cost),
            message=f"{training_cost:.4f} {currency}; at most {params.max_training_cost:g} {currency}.",
        ),
    ]


def judge_latency(champion_ms: Sequence[float], challenger_ms: Sequence[float], params: GateParams) -> Check:
    """Compare single texts' latencies, measured in turns: surely slower than the limit fails, a noisy machine does not.

    Args:
        champion_ms, challenger_ms: of the same texts, each pair measured one after the other.
        params: the limit of the median ratio.
    """
    ratios = np.array(challenger_ms) / np.array(champion_ms)
    is_slower = (
        stats.quantile_test(ratios, q=params.max_latency_ratio, p=0.5, alternative="greater").pvalue <= params.alpha
    )
    message = (
        f"median {np.median(challenger_ms):.2f} ms a text, the champion's {np.median(champion_ms):.2f} ms, text by "
        f"text {np.median(ratios):.2f} times as long; surely more than {params.max_latency_ratio:g} times fails."
    )
    return Check(name="latency", status=_get_status(not is_slower), message=message)


def judge_video(champion: VideoMetrics | None, challenger: VideoMetrics | None, params: GateParams) -> Check:
    """Compare the detectors by frame AUC: surely worse, by more than the margin, fails."""
    name = "video, frame AUC"
    if champion is None or challenger is None:
        return Check(name=name, status="skipped", message="There are not two detectors to compare.")
    before, now = champion.frame_auc, challenger.frame_auc
    passed = now.value >= before.value - params.max_video_loss or now.high >= before.value
    message = f"{now}, the champion's {before}; surely more than {params.max_video_loss:g} worse fails."
    return Check(name=name, status=_get_status(passed), message=message)


def list_changed(test: TestSet, n_texts: int, seed: int) -> list[ChangedAnswer]:
    """Draw texts whose answer changed: corrections, new errors and other changes in turns, newest texts first."""
    names = [*test.labels, "a label that it lacks"]  # position -1 is the last
    answers = test.answers
    changed = answers.champion != answers.challenger
    kinds = (answers.challenger == answers.y_true, answers.champion == answers.y_true)
    groups = [kinds[0], kinds[1], ~kinds[0] & ~kinds[1]]
    rng = np.random.default_rng(seed)
    queues = []
    for group in groups:
        order = rng.permutation(np.flatnonzero(changed & group))
        queues.append(list(order[np.argsort(~test.is_new[order], kind="stable")]))
    picked: list[int] = []
    while len(picked) < n_texts and any(queues):
        picked += [queue.pop(0) for queue in queues if queue]
    rows = test.rows
    return [
        ChangedAnswer(
            text=rows["text"].iloc[i],
            actual=names[answers.y_true[i]],
            champion=names[answers.champion[i]],
            challenger=names[answers.challenger[i]],
            topic=rows["topic"].iloc[i],
        )
        for i in picked[:n_texts]
    ]


def conclude(
    checks: list[Check],
    challenger: str,
    champion: str | None,
    test: TestSet | None,
    slices: list[SliceDifference],
    seed: int,
) -> GateResult:
    """Sum up: the challenger passes where no rule failed."""
    failed = [check.name for check in checks if check.status == "failed"]
    if failed:
        summary = f"The challenger does not pass: {', '.join(failed)}."
    elif champion is None:
        summary = "The challenger passes; there is no champion to compare with."
    else:
        summary = f"The challenger passes all {sum(check.status == 'passed' for check in checks)} rules."
    return GateResult(
        passed=not failed,
        summary=summary,
        challenger=challenger,
        champion=champion,
        checks=checks,
        agreement=None if test is None else test.answers.agreement,
        slices=slices,
        changed=[] if test is None else list_changed(test, 12, seed),
    )


def _get_status(passed: bool) -> CheckStatus:
    return "passed" if passed else "failed"
