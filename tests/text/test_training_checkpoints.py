"""Checkpoints: one that can't be read costs its steps and no more, and only one of the same training is resumed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from easy_corpus import LABELS, write

from evergreen.params import Params, TrainParams
from evergreen.text.checkpoints import compute_fingerprint, find_checkpoint
from evergreen.text.training import TrainingResult, train

pytestmark = pytest.mark.slow
FILES = ["trainer_state.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"]


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("easy"), {"train": 96, "validation": 30, "test": 1})


@pytest.fixture(scope="module")
def train_params(params: Params) -> TrainParams:
    return params.train.model_copy(update={"learning_rate": 1e-3})


@pytest.fixture(scope="module")
def trained(train_params: TrainParams, easy: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    """A training whose last two checkpoints are still there."""
    return train(train_params, LABELS, 7, easy, tmp_path_factory.mktemp("checkpoints"))


def copy(trained: TrainingResult, folder: Path) -> Path:
    return shutil.copytree(trained.checkpoints, folder / trained.checkpoints.name)


def list_steps(folder: Path) -> list[int]:
    return sorted(int(checkpoint.name.rpartition("-")[2]) for checkpoint in folder.glob("checkpoint-*"))


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def zero(file: Path) -> None:
    """As some file systems leave what was not yet on disk: the size is right."""
    file.write_bytes(bytes(file.stat().st_size))


def test_the_newest_checkpoint_is_found(trained: TrainingResult, tmp_path: Path) -> None:
    folder = copy(trained, tmp_path)
    steps = list_steps(folder)
    assert len(steps) == 2
    assert find_checkpoint(folder) == folder / f"checkpoint-{steps[-1]}"
    assert list_steps(folder) == steps
    assert find_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("damage", [Path.unlink, empty, cut, zero])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_costs_the_newest_checkpoint(
    name: str,
    damage: Callable[[Path], None],
    trained: TrainingResult,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = copy(trained, tmp_path)
    before, last = list_steps(folder)
    damage(folder / f"checkpoint-{last}" / name)
    assert find_checkpoint(folder) == folder / f"checkpoint-{before}"
    assert list_steps(folder) == [before]
    logged = "".join(capsys.readouterr())
    assert "checkpoint dropped" in logged
    assert name in logged


def test_a_changed_byte_is_noticed(trained: TrainingResult, tmp_path: Path) -> None:
    folder = copy(trained, tmp_path)
    before, last = list_steps(folder)
    file = folder / f"checkpoint-{last}/optimizer.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert find_checkpoint(folder) == folder / f"checkpoint-{before}"


def test_a_checkpoint_whose_best_model_is_gone_is_dropped(trained: TrainingResult, tmp_path: Path) -> None:
    folder = copy(trained, tmp_path)
    before, last = list_steps(folder)
    file = folder / f"checkpoint-{last}/trainer_state.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps(state | {"best_model_checkpoint": str(folder / f"checkpoint-{before}")}))
    assert find_checkpoint(folder) == folder / f"checkpoint-{last}"
    empty(folder / f"checkpoint-{before}/model.safetensors")
    assert find_checkpoint(folder) is None


def test_a_training_resumes_from_the_checkpoint_before(
    trained: TrainingResult, train_params: TrainParams, easy: Path, tmp_path: Path
) -> None:
    folder = copy(trained, tmp_path)
    before, last = list_steps(folder)
    empty(folder / f"checkpoint-{last}/trainer_state.json")
    again = train(train_params, LABELS, 7, easy, tmp_path)
    assert again.resumed_from_step == before
    assert again.checkpoints == folder
    whole, resumed = trained.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


@pytest.fixture
def fingerprint(train_params: TrainParams, weights: Path, tmp_path: Path) -> Callable[..., str]:
    folder = shutil.copytree(weights, tmp_path / "weights")

    def compute(
        labels: list[str] = LABELS, seed: int = 7, data_hash: str = "d" * 64, weights: Path = folder, **changes: object
    ) -> str:
        return compute_fingerprint(train_params.model_copy(update=changes), labels, seed, data_hash, weights)

    return compute


@pytest.mark.parametrize(
    "change",
    [
        {"labels": LABELS[::-1]},
        {"labels": LABELS[:2]},
        {"seed": 8},
        {"data_hash": "e" * 64},
        {"batch_size": 5},
        {"warm_start": "champion"},
    ],
)
def test_another_training_has_another_fingerprint(fingerprint: Callable[..., str], change: dict[str, object]) -> None:
    assert fingerprint() == fingerprint()
    assert fingerprint(**change) != fingerprint()


def test_the_fingerprint_covers_the_starting_weights(fingerprint: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    seen = [fingerprint()]
    (folder / "head.safetensors").write_bytes(b"head")
    seen.append(fingerprint())
    (folder / "head.safetensors").write_bytes(b"other")
    seen.append(fingerprint())
    (folder / "head.safetensors").rename(folder / "tail.safetensors")  # the same bytes under another name
    seen.append(fingerprint())
    (folder / "1").mkdir()
    (folder / "tail.safetensors").rename(folder / "1/tail.safetensors")
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("library", [torch, transformers])
def test_the_fingerprint_covers_the_libraries(
    library: object, fingerprint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint()
    monkeypatch.setattr(library, "__version__", "99.0.0")
    assert fingerprint() != before
    monkeypatch.setattr(library, "__version__", "99.0.0+cu130")
    built = fingerprint()
    monkeypatch.setattr(library, "__version__", "99.0.0+cpu")
    assert fingerprint() == built
