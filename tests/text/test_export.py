"""The export: ONNX gives torch's answers, in one file, smaller when quantized."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from evergreen.params import Params
from evergreen.text import export
from evergreen.text.bundle import Bundle
from evergreen.text.metrics import Parity
from evergreen.text.model import TextClassifier
from evergreen.text.runtime import Classifier

LABELS = ["negative", "neutral", "positive"]
SHAPES = [(1, 1), (1, 2), (1, 32), (2, 7), (3, 19), (17, 5), (33, 31)]


def compare(classifier: TextClassifier, file: Path, tokens: int) -> None:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    torch.manual_seed(0)
    for batch, length in SHAPES:
        ids = torch.randint(0, tokens, (batch, length))
        mask = (torch.arange(length) < torch.randint(1, length + 1, (batch, 1))).long()
        mask[0] = 1
        with torch.inference_mode():
            expected = classifier.eval()(ids, mask)
        outputs = session.run(
            ["logits", "sentence_embedding"], {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        )
        for name, value in zip(("logits", "sentence_embedding"), outputs, strict=True):
            assert value.shape == tuple(expected[name].shape)
            assert np.abs(value - expected[name].numpy()).max() <= 1e-4


def test_float32_equals_torch_for_any_shape(classifier: TextClassifier, float_folder: Path, tokenizer: Any) -> None:
    compare(classifier, float_folder / "model.onnx", len(tokenizer))


def test_another_architecture_is_exported_as_well(
    distil_weights: Path, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = TextClassifier.from_pretrained(
        distil_weights, LABELS, dropout=0.9
    ).train()  # dropout must not be exported
    full = tmp_path / "float" / "model.onnx"
    export.export_model(classifier, tokenizer, full.parent, quantize=False)
    compare(classifier, full, 400)
    # Quantized from the same file: exporting takes seconds.
    monkeypatch.setattr(export, "_export_onnx", lambda _model, path: shutil.copy(full, path))
    export.export_model(classifier, tokenizer, tmp_path / "int8", quantize=True)
    sizes = [(tmp_path / kind / "model.onnx").stat().st_size for kind in ("int8", "float")]
    assert sizes[0] < sizes[1]


def test_a_bundle_is_three_files_and_int8_is_smaller(int8_folder: Path, float_folder: Path) -> None:
    for folder in (int8_folder, float_folder):
        assert sorted(p.name for p in folder.iterdir()) == ["bundle.json", "model.onnx", "tokenizer.json"]
    sizes = [(folder / "model.onnx").stat().st_size for folder in (int8_folder, float_folder)]
    assert sizes[0] < 0.8 * sizes[1]


@pytest.fixture
def result(classifier: TextClassifier, tokenizer: Any) -> Any:
    return SimpleNamespace(model=classifier, tokenizer=tokenizer, labels=LABELS, temperature=1.5)


def measure(result: Any, bundle: Classifier, texts: list[str]) -> Parity:
    expected = export.predict_torch(result, texts, 32, 8)
    assert expected.sum(1) == pytest.approx(np.ones(len(texts)), abs=1e-5)
    return export.measure_parity(expected, bundle, texts, np.zeros(len(texts), np.int64), 8)


def test_float32_gives_torchs_probabilities(result: Any, float32: Classifier, texts: list[str]) -> None:
    parity = measure(result, float32, texts[:40])
    assert parity.n_samples == 40
    assert parity.label_parity == parity.batch_label_parity == 1
    assert parity.max_proba_difference <= 1e-4
    assert parity.batch_max_proba_difference <= 1e-5


def test_int8_stays_close_to_torch(result: Any, int8: Classifier, texts: list[str]) -> None:
    parity = measure(result, int8, texts[:100])
    assert 0 < parity.mean_proba_difference <= 0.05
    assert parity.label_parity >= 0.9


def test_parity_counts_what_differs(float32: Classifier, texts: list[str]) -> None:
    expected = float32.predict_proba(texts[:10]).copy()
    expected[:3] = np.roll(expected[:3], 1, axis=1)
    parity = export.measure_parity(expected, float32, texts[:10], expected.argmax(1), 4)
    assert parity.torch_accuracy == 1
    assert parity.bundle_accuracy == pytest.approx(0.7)
    assert parity.label_parity == pytest.approx(0.7)
    difference = np.abs(expected - float32.predict_proba(texts[:10]))
    assert parity.max_proba_difference == pytest.approx(difference.max(), abs=1e-5)
    assert parity.mean_proba_difference == pytest.approx(difference.mean(), abs=1e-5)
    assert parity.batch_label_parity == 1


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"label_parity": 0.9, "max_proba_difference": 0.5}, "min_label_parity"),
        ({"batch_label_parity": 0.99}, "max_batch_difference"),
        ({"batch_max_proba_difference": 0.1}, "max_batch_difference"),
    ],
)
def test_a_bundle_that_differs_is_refused(
    result: Any,
    float_folder: Path,
    data: Path,
    params: Params,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, float],
    key: str,
) -> None:
    bundle = Bundle.load(float_folder)
    arguments = (bundle, result, data / "validation.parquet", params.export, 8)
    parity = export.check_parity(*arguments)
    monkeypatch.setattr(export, "measure_parity", lambda *_: parity.model_copy(update=changes))
    with pytest.raises(export.ExportError, match=key):
        export.check_parity(*arguments)
