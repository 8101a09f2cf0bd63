"""What can be known before a training is: a model that could not be trained or shipped, a disk without room."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from easy_corpus import LABELS, write
from full_disk import mount_small_disk
from tiny_models import write_bertweet, write_gpt2, write_roberta
from transformers import AutoTokenizer

from evergreen.params import Params, ParamsError
from evergreen.sources import SourceError
from evergreen.text import preflight
from evergreen.text.bundle import Bundle
from evergreen.text.export import check_parity, export_bundle
from evergreen.text.loading import count_positions, load_pretrained
from evergreen.text.model import TextClassifier
from evergreen.text.preflight import PreflightError, check_space, check_training
from evergreen.text.runtime import Classifier
from evergreen.text.training import train

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def easy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("easy"), {"train": 96, "validation": 40, "test": 1})


def change(params: Params, **changes: object) -> Params:
    values = {"freeze_layers": 0, "freeze_embeddings": False, "learning_rate": 3e-3, "head_learning_rate": 1e-2}
    return params.model_copy(update={"train": params.train.model_copy(update=values | changes)})


def check(params: Params, data: Path, folder: Path) -> None:
    check_training(params, LABELS, data, folder / "checkpoints", [folder / "models/text", folder / "models/weights"])


def test_the_default_passes_and_leaves_nothing(params: Params, easy: Path, tmp_path: Path) -> None:
    check(params, easy, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("write_model", [write_gpt2, write_roberta])
def test_another_architecture_is_trained_and_shipped(
    write_model: Callable[[Path], Path], params: Params, easy: Path, tmp_path: Path
) -> None:
    (tmp_path / "base").mkdir()
    changed = change(params, base_model=str(write_model(tmp_path / "base")), epochs=4, max_length=64)
    check(changed, easy, tmp_path)
    result = train(changed.train, LABELS, 7, easy, tmp_path / "checkpoints")
    bundle = export_bundle(result, result.save_pretrained(tmp_path / "weights"), changed, easy, tmp_path / "bundle")
    loose = changed.export.model_copy(update={"min_label_parity": 0.8})
    check_parity(bundle, result, easy / "validation.parquet", loose, 16)
    classifier = Classifier(Bundle.load(tmp_path / "bundle"))
    rows = pd.read_parquet(easy / "validation.parquet")
    texts = [*rows["text"], "late " * 200]  # one longer than the model reads
    batched, alone = classifier.predict_proba(texts), np.concatenate([classifier.predict_proba([t]) for t in texts])
    assert np.abs(batched - alone).max() < 1e-3
    assert (batched[:-1].argmax(1) == [LABELS.index(label) for label in rows["label"]]).mean() > 0.8
    again = change(changed, warm_start=str(tmp_path / "weights"))
    load_pretrained(again.train, tmp_path / "weights", LABELS)


def test_padding_is_the_end_token_where_there_is_no_other(params: Params, tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path)
    assert AutoTokenizer.from_pretrained(folder).pad_token is None
    tokenizer, model = load_pretrained(change(params).train, folder, LABELS)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert model.encoder.config.pad_token_id == tokenizer.eos_token_id


def test_positions_that_padding_keeps_are_not_read(params: Params, tmp_path: Path) -> None:
    folder = write_roberta(tmp_path)
    assert count_positions(TextClassifier.from_pretrained(folder, LABELS).encoder) == 64
    with pytest.raises(ParamsError, match=r"train\.max_length: found 65, but this model reads 64"):
        load_pretrained(change(params, max_length=65).train, folder, LABELS)


def test_a_tokenizer_without_a_fast_form_is_refused(params: Params, easy: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    folder = write_bertweet(tmp_path / "base")
    with pytest.raises(
        SourceError, match=r"train\.base_model: .*BertweetTokenizer.*tokenizer\.json.* fast tokenizer\."
    ):
        check(change(params, base_model=str(folder)), easy, tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_more_frozen_layers_than_there_are_is_refused(params: Params, easy: Path, tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match=r"train\.freeze_layers: found 3, but this model has 2"):
        check(change(params, freeze_layers=3), easy, tmp_path)


def test_a_corpus_that_was_cut_off_is_refused(params: Params, easy: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"train\.parquet: missing\. Make it again: dvc repro preprocess"):
        check(params, tmp_path, tmp_path)


def test_a_folder_that_can_not_be_written_is_refused(params: Params, easy: Path, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file")
    with pytest.raises(PreflightError, match=r"models/text: can't be written \(.*models is a file\)"):
        check(params, easy, tmp_path)


def test_a_model_that_can_not_be_exported_is_refused(
    params: Params, easy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Untraceable(TextClassifier):
        def forward(self, input_ids, attention_mask):  # type: ignore[no-untyped-def]
            if input_ids.sum() > 3:  # a branch on values, which no graph has
                return super().forward(input_ids, attention_mask)
            return super().forward(input_ids, attention_mask * 0)

    monkeypatch.setattr("evergreen.text.loading.TextClassifier", Untraceable)
    with pytest.raises(PreflightError, match=r"train\.base_model: BertModel can't be exported to ONNX .*Name a model"):
        check(params, easy, tmp_path)


def test_a_disk_without_room_is_refused(params: Params, easy: Path, tmp_path: Path) -> None:
    with (
        mount_small_disk(tmp_path / "disk", "1m") as disk,
        pytest.raises(
            PreflightError, match=rf"{disk}/checkpoints/\w+: the training needs about .*, 1\.0 MB are free\."
        ),
    ):
        check(params, easy, disk)


def test_what_is_replaced_makes_room(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TextClassifier.from_pretrained(weights, LABELS)
    size = 4 * sum(value.numel() for value in model.parameters())
    needed = 3 * 3 * size + 2 * size
    monkeypatch.setattr(preflight, "_SPARE", 0)
    with mount_small_disk(tmp_path / "disk", str(needed + 100_000)) as disk:
        folders = disk / "run", [disk / "text", disk / "weights"]
        check_space(model, *folders)
        (disk / "run/checkpoint-1").mkdir(parents=True)
        (disk / "run/checkpoint-1/model.safetensors").write_bytes(bytes(3 * size))
        check_space(model, *folders)
        (disk / "run").rename(disk / "another-run")
        with pytest.raises(PreflightError, match=r"disk/run: the training needs"):
            check_space(model, *folders)
