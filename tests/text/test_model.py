"""The torch model: saved, loaded, frozen, padded; whatever the architecture."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evergreen.params import ParamsError
from evergreen.text.model import TextClassifier, find_layers

LABELS = ["negative", "neutral", "positive"]
BOTH = pytest.mark.parametrize("which", ["weights", "distil_weights"])


def predict(classifier: TextClassifier, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")
    with torch.inference_mode():
        return classifier.eval()(batch["input_ids"], batch["attention_mask"])["logits"]


@BOTH
def test_loaded_again_gives_the_same_predict(
    which: str, request: pytest.FixtureRequest, tokenizer: Any, texts: list[str], tmp_path: Path
) -> None:
    first = TextClassifier.from_pretrained(request.getfixturevalue(which), LABELS, dropout=0.5)
    first.save_pretrained(tmp_path, LABELS)
    torch.manual_seed(99)
    again = TextClassifier.from_pretrained(tmp_path, LABELS)
    assert torch.equal(predict(first, tokenizer, texts[:8]), predict(again, tokenizer, texts[:8]))


@pytest.mark.parametrize("others", [["positive", "neutral", "negative"], ["bad", "good"]])
def test_a_head_for_other_labels_is_not_taken(weights: Path, tmp_path: Path, others: list[str]) -> None:
    first = TextClassifier.from_pretrained(weights, LABELS)
    first.save_pretrained(tmp_path, LABELS)
    fresh = TextClassifier.from_pretrained(tmp_path, others)
    assert fresh.head.out_features == len(others)
    assert not torch.equal(fresh.head.weight[:2], first.head.weight[:2])
    assert torch.equal(TextClassifier.from_pretrained(tmp_path, LABELS).head.weight, first.head.weight)


@BOTH
def test_frozen_weights_stay_and_the_others_move(
    which: str, request: pytest.FixtureRequest, tokenizer: Any, texts: list[str]
) -> None:
    classifier = TextClassifier.from_pretrained(request.getfixturevalue(which), LABELS)
    classifier.freeze(embeddings=True, layers=1)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    optimizer = torch.optim.SGD((p for p in classifier.parameters() if p.requires_grad), lr=1.0)
    batch = tokenizer(texts[:4], padding=True, truncation=True, max_length=32, return_tensors="pt")
    logits = classifier(batch["input_ids"], batch["attention_mask"])["logits"]
    torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    optimizer.step()
    moved = {n for n, value in classifier.state_dict().items() if not torch.equal(value, before[n])}
    assert not [name for name in moved if "embeddings" in name or "layer.0." in name]
    assert {"head.weight", "head.bias"} < moved
    assert [name for name in moved if "layer.1." in name]


@BOTH
def test_dropout_of_the_encoder_is_set(
    which: str, request: pytest.FixtureRequest, tokenizer: Any, texts: list[str]
) -> None:
    batch = tokenizer(texts[:4], padding=True, truncation=True, max_length=32, return_tensors="pt")
    classifier = TextClassifier.from_pretrained(request.getfixturevalue(which), LABELS).train()

    def is_random() -> bool:
        first, second = (classifier(batch["input_ids"], batch["attention_mask"])["logits"] for _ in range(2))
        return not torch.equal(first, second)

    classifier.set_encoder_dropout(0.5)
    assert is_random()
    classifier.set_encoder_dropout(0.0)
    assert not is_random()


def test_nothing_is_frozen_unless_asked(weights: Path) -> None:
    classifier = TextClassifier.from_pretrained(weights, LABELS)
    classifier.freeze(embeddings=False, layers=0)
    assert all(p.requires_grad for p in classifier.parameters())


@BOTH
def test_too_many_layers_to_freeze_names_the_key(which: str, request: pytest.FixtureRequest) -> None:
    classifier = TextClassifier.from_pretrained(request.getfixturevalue(which), LABELS)
    classifier.freeze(embeddings=False, layers=2)
    with pytest.raises(ParamsError, match=r"train\.freeze_layers: found 3, but this model has 2 layers"):
        classifier.freeze(embeddings=False, layers=3)


def test_embeddings_that_are_not_recognized_name_the_key(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = TextClassifier.from_pretrained(weights, LABELS)

    def refuse() -> None:
        raise NotImplementedError

    monkeypatch.setattr(classifier.encoder, "get_input_embeddings", refuse)
    with pytest.raises(ParamsError, match=r"train\.freeze_embeddings"):
        classifier.freeze(embeddings=True, layers=0)


def test_an_encoder_without_layers_names_the_key() -> None:
    with pytest.raises(ParamsError, match=r"train\.freeze_layers"):
        find_layers(torch.nn.Linear(2, 2))


@BOTH
def test_padding_changes_no_answer(
    which: str, request: pytest.FixtureRequest, tokenizer: Any, texts: list[str]
) -> None:
    classifier = TextClassifier.from_pretrained(request.getfixturevalue(which), LABELS)
    some = sorted(texts[:12], key=len)
    together = predict(classifier, tokenizer, some)
    alone = torch.cat([predict(classifier, tokenizer, [text]) for text in some])
    assert torch.allclose(together, alone, atol=1e-5)
    assert together.std(0).min() > 1e-4  # the answers do differ from text to text


def test_weights_in_half_precision_are_read_as_float32(
    weights: Path, tokenizer: Any, texts: list[str], tmp_path: Path
) -> None:
    TextClassifier.from_pretrained(weights, LABELS).encoder.half().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "float16"
    assert predict(TextClassifier.from_pretrained(tmp_path, LABELS), tokenizer, texts[:2]).dtype == torch.float32


def test_frozen_layers_drop_nothing_out_in_training(weights: Path) -> None:
    classifier = TextClassifier.from_pretrained(weights, LABELS)
    classifier.freeze(embeddings=True, layers=1)
    classifier.train()
    modes = {name: module.training for name, module in classifier.named_modules() if "dropout" in name}
    assert not any(on for name, on in modes.items() if "embeddings" in name or "layer.0." in name)
    assert all(on for name, on in modes.items() if "layer.1." in name or name == "dropout")
