"""Training: it learns, it repeats itself, it stops early, and a kill costs no more than the last steps."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from easy_corpus import LABELS, write
from full_disk import mount_small_disk
from safetensors import SafetensorError

from evergreen import sources
from evergreen.full_disk import explain_full_disk
from evergreen.params import Params, ParamsError, TrainParams
from evergreen.text import training
from evergreen.text.model import TextClassifier, hash_weights
from evergreen.text.training import TrainingResult

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("easy"), {"train": 240, "validation": 60, "test": 1})


@pytest.fixture
def quick(params: Params) -> Callable[..., TrainParams]:
    def change(**changes: Any) -> TrainParams:
        rates = {"learning_rate": 3e-3, "head_learning_rate": 1e-2, "dropout": 0.0, "label_smoothing": 0.0}
        return params.train.model_copy(update=rates | changes)

    return change


def losses(result: TrainingResult) -> list[float]:
    return [row["loss"] for row in result.history if "loss" in row]


def test_it_learns_and_repeats_itself(quick: Callable[..., TrainParams], easy: Path, tmp_path: Path) -> None:
    def run(seed: int) -> TrainingResult:
        return training.train(quick(epochs=4), LABELS, seed, easy, tmp_path / str(time.time_ns()))

    first, same, other = run(7), run(7), run(8)
    scores = [row["eval_accuracy"] for row in first.history if "eval_accuracy" in row]
    assert max(scores) > 0.9
    validation = [row["eval_loss"] for row in first.history if "eval_loss" in row]
    assert validation[-1] < 0.6 * validation[0]
    assert np.mean(losses(first)[-5:]) < 0.8 * np.mean(losses(first)[:5])
    assert first.n_samples == 240
    assert first.resumed_from_step == 0
    weights = [run.model.state_dict() for run in (first, same, other)]
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert not torch.equal(weights[0]["head.weight"], weights[2]["head.weight"])
    assert losses(first) == losses(same)


def test_the_temperature_is_the_one_that_fits_validation(quick: Callable[..., TrainParams], tmp_path: Path) -> None:
    # Texts of very different lengths: evaluation may bring them back in another order than the file's.
    folder = write(tmp_path, {"train": 96, "validation": 60, "test": 1})
    result = training.train(quick(), LABELS, 7, folder, tmp_path / "checkpoints")
    rows = pd.read_parquet(folder / "validation.parquet")
    with torch.inference_mode():
        encoded = result.tokenizer(rows["text"].tolist(), padding=True, return_tensors="pt")
        logits = result.model(encoded["input_ids"], encoded["attention_mask"])["logits"].numpy()
    y_true = np.array([LABELS.index(label) for label in rows["label"]])
    assert result.temperature == pytest.approx(training.fit_temperature(logits, y_true), rel=0.02)


def test_frozen_weights_come_out_as_they_went_in(
    quick: Callable[..., TrainParams], easy: Path, weights: Path, tmp_path: Path
) -> None:
    before = TextClassifier.from_pretrained(weights, LABELS).state_dict()
    after = training.train(quick(epochs=0.5), LABELS, 7, easy, tmp_path).model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if "embeddings" in name or "layer.0." in name]
    assert [name for name in moved if "layer.1." in name]


def test_it_stops_early_and_keeps_the_best(quick: Callable[..., TrainParams], easy: Path, tmp_path: Path) -> None:
    hopeless = quick(epochs=30, learning_rate=1e-12, head_learning_rate=1e-12, early_stopping_patience=2)
    result = training.train(hopeless, LABELS, 7, easy, tmp_path)
    evaluations = [row for row in result.history if "eval_macro_f1" in row]
    assert len(evaluations) == 3  # the first, and two that are no better
    assert max(row["epoch"] for row in result.history) < 3


def test_a_training_shorter_than_an_evaluation_is_scored_at_its_end(
    quick: Callable[..., TrainParams], easy: Path, tmp_path: Path
) -> None:
    result = training.train(quick(epochs=0.1, evaluations_per_epoch=1), LABELS, 7, easy, tmp_path)
    assert [row["epoch"] for row in result.history if "eval_macro_f1" in row]


def test_more_tokens_than_the_model_reads_are_refused(
    quick: Callable[..., TrainParams], easy: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParamsError, match=r"train\.max_length: found 65, but this model reads 64"):
        training.train(quick(max_length=65), LABELS, 7, easy, tmp_path)


def test_a_folder_without_a_model_is_named(quick: Callable[..., TrainParams], easy: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(sources.SourceError, match="empty: not a model that transformers loads"):
        training.train(quick(base_model=str(tmp_path / "empty")), LABELS, 7, easy, tmp_path)


PROGRAM = """
import json, sys
from pathlib import Path
from evergreen.params import TrainParams
from evergreen.text.training import train
params, data, checkpoints = sys.argv[1:]
params = TrainParams.model_validate_json(params)
train(params, ["negative", "neutral", "positive"], 7, Path(data), Path(checkpoints))
"""


def test_a_killed_run_resumes_from_its_checkpoint(
    quick: Callable[..., TrainParams], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path, {"train": 480, "validation": 30, "test": 1})
    long = quick(epochs=40, evaluations_per_epoch=4, early_stopping_patience=1000)
    checkpoints = tmp_path / "checkpoints"
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, long.model_dump_json(), str(data), str(checkpoints)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            if list(checkpoints.glob("*/checkpoint-*/trainer_state.json")):
                break
            assert child.poll() is None
            time.sleep(0.05)
    finally:
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    [folder] = checkpoints.iterdir()
    done = [json.loads(file.read_text()) for file in folder.glob("checkpoint-*/trainer_state.json")]
    reached = max(state["global_step"] for state in done)
    # As a kill in the middle of saving leaves it.
    (folder / f"checkpoint-{reached + 1}").mkdir()
    # Same run, but let it end soon: the checkpoint knows how far it was.
    monkeypatch.setattr(training, "compute_fingerprint", lambda *_: folder.name)
    short = long.model_copy(update={"epochs": reached / 30 + 0.5})
    result = training.train(short, LABELS, 7, data, checkpoints)
    assert result.resumed_from_step == reached > 0
    assert result.history[0]["step"] <= reached < result.history[-1]["step"]
    # They stay until the caller has what it needs.
    assert result.checkpoints == folder


def test_another_run_is_not_resumed(quick: Callable[..., TrainParams], easy: Path, tmp_path: Path) -> None:
    (tmp_path / "0123456789abcdef" / "checkpoint-5").mkdir(parents=True)
    assert training.train(quick(epochs=0.5), LABELS, 7, easy, tmp_path).resumed_from_step == 0
    assert (tmp_path / "0123456789abcdef").exists()


def champion(folder: Path, until: str) -> Path:
    for name in ("model.safetensors", "head.safetensors"):
        (folder / name).write_bytes(name.encode())
    state = {"data_cutoff": until, "weights_hash": hash_weights(folder)}
    (folder / "training.json").write_text(json.dumps(state))
    return folder


@pytest.fixture
def dated() -> datasets.Dataset:
    times = pd.date_range("2026-01-01", periods=100, freq="D", tz="UTC").as_unit("us")
    return datasets.Dataset.from_pandas(pd.DataFrame({"row": range(100), "observed_at": times}), preserve_index=False)


@pytest.mark.parametrize(("ratio", "old"), [(0.0, 0), (1.0, 10), (2.5, 25), (50.0, 90)])
def test_replay_keeps_all_that_is_new_and_so_much_of_the_old(
    dated: datasets.Dataset, tmp_path: Path, ratio: float, old: int
) -> None:
    until = dated["observed_at"][89].isoformat()
    rows = training.add_replay(dated, champion(tmp_path, until), ratio, 7)["row"]
    assert [row for row in rows if row > 89] == list(range(90, 100))
    assert len([row for row in rows if row <= 89]) == old
    assert len(set(rows)) == len(rows)


def test_replay_differs_by_seed_only(dated: datasets.Dataset, tmp_path: Path) -> None:
    folder = champion(tmp_path, "2026-03-31T00:00:00+00:00")
    one, same, other = (list(training.add_replay(dated, folder, 2, seed)["row"]) for seed in (1, 1, 2))
    assert one == same
    assert one != other


def test_replay_without_news_keeps_all(dated: datasets.Dataset, tmp_path: Path) -> None:
    folder = champion(tmp_path, "2027-01-01T00:00:00+00:00")
    assert len(training.add_replay(dated, folder, 2, 7)) == 100


def test_changed_weights_of_a_champion_are_refused(dated: datasets.Dataset, tmp_path: Path) -> None:
    folder = champion(tmp_path, "2026-03-31T00:00:00+00:00")
    (folder / "head.safetensors").write_bytes(b"other")
    with pytest.raises(sources.SourceError, match="weights changed"):
        training.add_replay(dated, folder, 2, 7)


@pytest.mark.parametrize("content", ["", '{"data_cut', "[]", "{}", '{"weights_hash": "x", "data_cutoff": "soon"}'])
def test_a_champion_whose_state_was_cut_off_is_refused(content: str, dated: datasets.Dataset, tmp_path: Path) -> None:
    folder = champion(tmp_path, "2026-03-31T00:00:00+00:00")
    (folder / "training.json").write_text(content)
    with pytest.raises(sources.SourceError, match=r"training\.json: damaged\. Fetch the weights again"):
        training.add_replay(dated, folder, 2, 7)


@pytest.mark.parametrize("name", ["model.safetensors", "head.safetensors", "labels.json", "config.json"])
def test_weights_that_were_cut_off_are_refused(
    name: str, quick: Callable[..., TrainParams], easy: Path, weights: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(weights, tmp_path / "weights")
    TextClassifier.from_pretrained(weights, LABELS).save_pretrained(folder, LABELS)
    (folder / name).write_bytes((folder / name).read_bytes()[:-5])
    with pytest.raises(sources.SourceError, match="not a model that transformers loads"):
        training.train(quick(base_model=str(folder)), LABELS, 7, easy, tmp_path)


def test_a_full_disk_costs_no_more_than_the_checkpoint_that_it_cut_off(
    quick: Callable[..., TrainParams], easy: Path, tmp_path: Path
) -> None:
    params = quick(epochs=1)
    whole = training.train(params, LABELS, 7, easy, tmp_path / "whole")
    first, last = sorted(whole.checkpoints.iterdir(), key=lambda folder: int(folder.name.rpartition("-")[2]))
    size = sum(file.stat().st_size for file in first.iterdir())
    with mount_small_disk(tmp_path / "disk", str(round(1.6 * size))) as disk:
        with pytest.raises((OSError, RuntimeError, SafetensorError)) as caught:
            training.train(params, LABELS, 7, easy, disk)
        message = explain_full_disk(caught.value)
        assert message is not None
        assert message.startswith(str(disk / whole.checkpoints.name / last.name))
        subprocess.run(["mount", "-o", f"remount,size={4 * size}", str(disk)], check=True)
        resumed = training.train(params, LABELS, 7, easy, disk)
    assert resumed.resumed_from_step == int(first.name.rpartition("-")[2])
    assert all(torch.equal(value, resumed.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


def test_a_champion_must_say_until_when_it_was_trained(
    quick: Callable[..., TrainParams], easy: Path, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(sources.SourceError, match=r"no training\.json.*train\.warm_start"):
        training.train(quick(warm_start=str(weights)), LABELS, 7, easy, tmp_path)


def nll(logits: np.ndarray, y_true: np.ndarray, temperature: float) -> float:
    return float(torch.nn.functional.cross_entropy(torch.tensor(logits / temperature), torch.tensor(y_true)))


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_is_found_again(factor: float) -> None:
    rng = np.random.default_rng(5)
    logits = rng.normal(0, 2, (20_000, 3))
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y_true = (odds.cumsum(1) < rng.random((20_000, 1))).sum(1).clip(max=2)
    temperature = training.fit_temperature(factor * logits, y_true)
    assert temperature == pytest.approx(factor, rel=0.05)
    assert nll(factor * logits, y_true, temperature) <= nll(factor * logits, y_true, 1.0) + 1e-9


def test_class_weights(quick: Callable[..., TrainParams]) -> None:
    labels = np.array([0] * 8 + [1] * 2)
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    right, wrong = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1]), reduction="none").tolist()
    even = training._build_loss(quick(class_weight_power=0.0), labels, 2)({"logits": logits}, torch.tensor([0, 1]))
    full = training._build_loss(quick(class_weight_power=1.0), labels, 2)({"logits": logits}, torch.tensor([0, 1]))
    assert even.item() == pytest.approx((right + wrong) / 2)
    # A text of the class that is four times as rare counts four times as much.
    assert full.item() == pytest.approx((right + 4 * wrong) / 5)
