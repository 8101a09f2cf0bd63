"""From the torch model to ONNX, to int8, and the check that the bundle still gives its answers."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from evergreen.text.model import TextClassifier
from evergreen.text.runtime import Classifier, softmax


def export(model: TextClassifier, tokenizer: Any, folder: Path, quantise: bool) -> None:
    """Write `model.onnx` (one file) and `tokenizer.json` into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    with TemporaryDirectory() as scratch:
        full = Path(scratch) / "full.onnx"
        _to_onnx(model, full)
        if quantise:
            # Weights per output channel; 7 bits of range keep AVX2's 16-bit sums from saturating.
            quantize_dynamic(
                full, folder / "model.onnx", weight_type=QuantType.QInt8, per_channel=True, reduce_range=True
            )
        else:
            full.rename(folder / "model.onnx") if full.stat().st_dev == folder.stat().st_dev else onnx.save(
                onnx.load(full), folder / "model.onnx"
            )


class _Positional(nn.Module):
    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(input_ids, attention_mask)
        return outputs["logits"], outputs["sentence_embedding"]


def _to_onnx(model: TextClassifier, path: Path) -> None:
    # Two unequal texts, so that neither dimension is taken for a constant.
    ids = torch.ones(2, 7, dtype=torch.long)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    dynamic = {0: batch, 1: tokens}
    program = torch.onnx.export(
        _Positional(model).eval(),
        (ids, mask),
        dynamo=True,
        dynamic_shapes=(dynamic, dynamic),
        input_names=["input_ids", "attention_mask"],
        output_names=["logits", "sentence_embedding"],
        verbose=False,
    )
    program.save(path)


def torch_probabilities(
    model: TextClassifier, tokenizer: Any, texts: list[str], max_tokens: int, temperature: float
) -> NDArray[np.float32]:
    """Answer clean texts with the torch model, one at a time; shape [texts, labels]."""
    rows = []
    with torch.inference_mode():
        for text in texts:
            encoded = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
            rows.append(model(encoded["input_ids"], encoded["attention_mask"])["logits"][0].numpy())
    return softmax((np.stack(rows) / temperature).astype(np.float32))


def agreement(
    expected: NDArray[np.float32], bundle: Classifier, texts: list[str], truth: list[int]
) -> dict[str, float]:
    """Compare the bundle with the torch model, and the bundle's answers alone with those in batches.

    Args:
        expected: the torch model's probabilities, [texts, labels].
        truth: [texts], indices of the true labels.

    Returns:
        Shares of equal labels, the largest differences of a probability, and both accuracies.
    """
    batched = bundle.probabilities(texts)
    alone = np.concatenate([bundle.probabilities([text]) for text in texts])

    def same(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
        return float((left.argmax(1) == right.argmax(1)).mean())

    return {
        "texts": len(texts),
        "label_agreement": same(expected, batched),
        "max_probability_difference": float(np.abs(expected - batched).max()),
        "mean_probability_difference": float(np.abs(expected - batched).mean()),
        "torch_accuracy": float((expected.argmax(1) == truth).mean()),
        "bundle_accuracy": float((batched.argmax(1) == truth).mean()),
        "batch_label_agreement": same(alone, batched),
        "batch_max_probability_difference": float(np.abs(alone - batched).max()),
    }
