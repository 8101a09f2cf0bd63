"""The export: ONNX gives torch's answers, in one file, smaller when quantized."""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from evergreen.bundle import hash_files
from evergreen.params import Params
from evergreen.text import export
from evergreen.text.bundle import Bundle
from evergreen.text.metrics import Parity
from evergreen.text.model import TextClassifier
from evergreen.text.runtime import Classifier

pytestmark = pytest.mark.slow

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


@pytest.fixture
def feeds(tokenizer: Any, texts: list[str]) -> list[export.Feed]:
    return [export.encode(tokenizer, text, 32) for text in texts[:32]]


def count_operators(file: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(file).graph.node)


def test_another_architecture_is_exported_as_well(
    distil_weights: Path, tokenizer: Any, feeds: list[export.Feed], tmp_path: Path
) -> None:
    classifier = TextClassifier.from_pretrained(distil_weights, LABELS, dropout=0.9).train()  # dropout is not exported
    full = tmp_path / "float"
    export.export_model(classifier, tokenizer, full, "none", feeds)
    compare(classifier, full / "model.onnx", 400)
    assert count_operators(full / "model.onnx")["MultiHeadAttention"] == 2
    export.export_model(classifier, tokenizer, tmp_path / "int8", "static", feeds)
    sizes = [(tmp_path / dtype / "model.onnx").stat().st_size for dtype in ("int8", "float")]
    assert sizes[0] < sizes[1]
    operators = count_operators(tmp_path / "int8" / "model.onnx")
    assert operators["MatMulIntegerToFloat"] == 12
    assert operators["MatMul"] == 0


@pytest.fixture
def wrong_mask() -> Iterator[None]:
    """An architecture for which the mask would have to be another one."""
    export.AttentionMaskInterface.register(export.FUSED, lambda *_, attention_mask, **__: 0 * attention_mask.int() + 1)
    yield
    export.AttentionMaskInterface.register(export.FUSED, export._pass_mask)


@pytest.mark.usefixtures("wrong_mask")
def test_attention_that_would_differ_is_not_fused(
    classifier: TextClassifier, tokenizer: Any, feeds: list[export.Feed], tmp_path: Path
) -> None:
    export.export_model(classifier, tokenizer, tmp_path, "none", feeds)
    assert count_operators(tmp_path / "model.onnx")["MultiHeadAttention"] == 0
    compare(classifier, tmp_path / "model.onnx", 400)


def test_causal_attention_is_not_fused(
    classifier: TextClassifier,
    tokenizer: Any,
    feeds: list[export.Feed],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(classifier.encoder.encoder.layer[0].attention.self, "is_causal", True)
    export.export_model(classifier, tokenizer, tmp_path, "none", feeds)
    assert count_operators(tmp_path / "model.onnx")["MultiHeadAttention"] == 0


def test_the_same_weights_give_the_same_bytes_anywhere(
    classifier: TextClassifier, tokenizer: Any, feeds: list[export.Feed], int8_folder: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, torch; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import elsewhere as export;"
        "classifier, tokenizer, feeds = torch.load(sys.argv[2], weights_only=False);"
        "export.export_model(classifier, tokenizer, Path(sys.argv[3]), 'static', feeds)"
    )
    torch.save((classifier, tokenizer, feeds), tmp_path / "model.pt")
    shutil.copy(export.__file__, tmp_path / "elsewhere.py")  # the same code in another folder
    command = [sys.executable, "-c", program, str(tmp_path), str(tmp_path / "model.pt"), str(tmp_path / "other")]
    subprocess.run(command, check=True, cwd=tmp_path)
    export.export_model(classifier, tokenizer, tmp_path / "here", "static", feeds)
    assert hash_files(tmp_path / "other/model.onnx") == hash_files(tmp_path / "here/model.onnx")
    content = (tmp_path / "here/model.onnx").read_bytes()
    assert b".py" not in content
    assert str(Path(export.__file__).parents[3]).encode() not in content


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
