"""The export: ONNX gives torch's answers, in one file, smaller when quantised."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from evergreen.text import export, model
from evergreen.text.runtime import Classifier

LABELS = ["negative", "neutral", "positive"]
SHAPES = [(1, 1), (1, 2), (1, 32), (2, 7), (3, 19), (17, 5), (33, 31)]


def compare(classifier: model.TextClassifier, file: Path, tokens: int) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    torch.manual_seed(0)
    for batch, length in SHAPES:
        ids = torch.randint(0, tokens, (batch, length))
        mask = (torch.arange(length) < torch.randint(1, length + 1, (batch, 1))).long()
        mask[0] = 1
        with torch.inference_mode():
            expected = classifier.eval()(ids, mask)
        found = session.run(
            ["logits", "sentence_embedding"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        )
        for name, value in zip(("logits", "sentence_embedding"), found, strict=True):
            assert value.shape == tuple(expected[name].shape)
            assert np.abs(value - expected[name].numpy()).max() <= 1e-4


def test_float32_equals_torch_for_any_shape(
    classifier: model.TextClassifier, float_folder: Path, tokenizer: Any
) -> None:
    compare(classifier, float_folder / "model.onnx", len(tokenizer))


def test_another_architecture_is_exported_as_well(
    distil_weights: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = model.load(distil_weights, LABELS, dropout=0.9).train()  # dropout must not be exported
    full = tmp_path / "float" / "model.onnx"
    export.export(classifier, tokenizer, full.parent, quantise=False)
    compare(classifier, full, 400)
    # Quantised from the same file: exporting takes seconds.
    monkeypatch.setattr(export, "_to_onnx", lambda _model, path: shutil.copy(full, path))
    export.export(classifier, tokenizer, tmp_path / "int8", quantise=True)
    sizes = [(tmp_path / kind / "model.onnx").stat().st_size for kind in ("int8", "float")]
    assert sizes[0] < sizes[1]


def test_a_bundle_is_three_files_and_int8_is_smaller(int8_folder: Path, float_folder: Path) -> None:
    for folder in (int8_folder, float_folder):
        assert sorted(p.name for p in folder.iterdir()) == ["bundle.json", "model.onnx", "tokenizer.json"]
    sizes = [(folder / "model.onnx").stat().st_size for folder in (int8_folder, float_folder)]
    assert sizes[0] < 0.8 * sizes[1]


def test_the_bundle_gives_torchs_probabilities(
    classifier: model.TextClassifier, tokenizer: Any, float32: Classifier, texts: list[str]
) -> None:
    expected = export.torch_probabilities(classifier, tokenizer, texts[:40], 32, 1.5)
    assert expected.sum(1) == pytest.approx(np.ones(40), abs=1e-5)
    found = export.agreement(expected, float32, texts[:40], [0] * 40)
    assert found["texts"] == 40
    assert found["label_agreement"] == found["batch_label_agreement"] == 1
    assert found["max_probability_difference"] <= 1e-4
    assert found["batch_max_probability_difference"] <= 1e-5


def test_agreement_counts_what_differs(float32: Classifier, texts: list[str]) -> None:
    expected = float32.probabilities(texts[:10]).copy()
    expected[:3] = np.roll(expected[:3], 1, axis=1)
    truth = expected.argmax(1).tolist()
    found = export.agreement(expected, float32, texts[:10], truth)
    assert found["torch_accuracy"] == 1
    assert found["bundle_accuracy"] == pytest.approx(0.7)
    assert found["label_agreement"] == pytest.approx(0.7)
    difference = np.abs(expected - float32.probabilities(texts[:10]))
    assert found["max_probability_difference"] == pytest.approx(difference.max(), abs=1e-6)
    assert found["mean_probability_difference"] == pytest.approx(difference.mean(), abs=1e-6)
    assert found["batch_label_agreement"] == 1


def test_int8_stays_close_to_torch(
    classifier: model.TextClassifier, tokenizer: Any, int8: Classifier, texts: list[str]
) -> None:
    expected = export.torch_probabilities(classifier, tokenizer, texts[:100], 32, 1.5)
    found = export.agreement(expected, int8, texts[:100], [0] * 100)
    assert 0 < found["mean_probability_difference"] <= 0.05
    assert found["label_agreement"] >= 0.9
