"""From the torch model to ONNX, to int8, and the check that the bundle still gives its answers."""

import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from evergreen.params import ExportParams, Params
from evergreen.text.bundle import MODEL, TOKENIZER, Bundle, BundleError, CleaningRules, Manifest
from evergreen.text.cleaning import VERSION
from evergreen.text.metrics import Parity
from evergreen.text.model import TextClassifier
from evergreen.text.runtime import Classifier, softmax
from evergreen.text.training import TrainingResult


class ExportError(BundleError):
    """The bundle does not agree with the model that it was made from."""


def export_bundle(result: TrainingResult, weights_hash: str, params: Params, folder: Path) -> Bundle:
    """Write the bundle of a trained model into `folder`, in place of what is there.

    Args:
        weights_hash: of the torch weights, as `TrainingResult.save_pretrained` returns it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    export_model(result.model, result.tokenizer, folder, params.export.quantize)
    manifest = Manifest(
        version=params.export.version,
        labels=result.labels,
        max_length=params.train.max_length,
        temperature=result.temperature,
        cleaning=CleaningRules(version=VERSION, public_handles=params.data.public_handles),
        data_hash=result.data_hash,
        weights_hash=weights_hash,
        trained_at=datetime.now(UTC).isoformat(timespec="seconds"),
        data_cutoff=result.data_cutoff,
        train_topics=result.train_topics,
        train_samples=result.n_samples,
        embedding_size=result.model.encoder.config.hidden_size,
        dtype="int8" if params.export.quantize else "float32",
        run=uuid.uuid4().hex,
    )
    return Bundle.write(folder, manifest)


def export_model(model: TextClassifier, tokenizer: Any, folder: Path, quantize: bool) -> None:
    """Write `model.onnx` (one file) and `tokenizer.json` into `folder`; the same weights give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    with TemporaryDirectory() as scratch:
        full = Path(scratch) / "full.onnx"
        _export_onnx(model, full)
        if quantize:
            # Weights per output channel; 7 bits of range keep AVX2's 16-bit sums from saturating.
            quantize_dynamic(full, folder / MODEL, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
        else:
            shutil.move(full, folder / MODEL)


class _Positional(nn.Module):
    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(input_ids, attention_mask)
        return outputs["logits"], outputs["sentence_embedding"]


def _export_onnx(model: TextClassifier, path: Path) -> None:
    # Two unequal texts, so that neither dimension is taken for a constant.
    ids = torch.ones(2, 7, dtype=torch.long)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
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


def predict_torch(result: TrainingResult, texts: list[str], max_length: int, batch_size: int) -> NDArray[np.float32]:
    """Calibrated probabilities of the torch model for clean texts, shape [texts, labels]."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    y_proba = np.zeros((len(texts), len(result.labels)), np.float32)
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            encoded = result.tokenizer(
                [texts[i] for i in batch], padding=True, truncation=True, max_length=max_length, return_tensors="pt"
            )
            logits = result.model(encoded["input_ids"], encoded["attention_mask"])["logits"].numpy()
            y_proba[batch] = softmax(logits / result.temperature)
    return y_proba


def check_parity(
    bundle: Bundle, result: TrainingResult, validation: Path, params: ExportParams, batch_size: int
) -> Parity:
    """Compare the bundle with the torch model on validation texts, alone and in batches.

    Raises:
        ExportError: when it gives the torch model's label too seldom, or another answer in a batch than alone.
    """
    rows = pd.read_parquet(validation, columns=["text", "label"]).head(params.parity_samples)
    texts = rows["text"].tolist()
    y_true = np.array([result.labels.index(label) for label in rows["label"]])
    expected = predict_torch(result, texts, bundle.manifest.max_length, batch_size)
    parity = measure_parity(expected, Classifier(bundle), texts, y_true, batch_size)
    if parity.label_parity < params.min_label_parity:
        raise ExportError(
            f"the bundle gives the torch model's label for {parity.label_parity:.1%} of {len(texts)} validation texts; "
            f"export.min_label_parity wants {params.min_label_parity:.1%}. Lower it, or try another export.quantize."
        )
    if parity.batch_label_parity < 1 or parity.batch_max_proba_difference > params.max_batch_difference:
        raise ExportError(
            f"in a batch the bundle's probabilities differ by {parity.batch_max_proba_difference:.2g} from those of "
            f"the text alone; export.max_batch_difference allows {params.max_batch_difference:g}, and no other label. "
            "Try another export.quantize."
        )
    return parity


def measure_parity(
    expected: NDArray[np.float32], classifier: Classifier, texts: list[str], y_true: NDArray[np.int64], batch_size: int
) -> Parity:
    """Compare the bundle with the torch model's probabilities, `expected`, [texts, labels], and with itself alone."""
    batched = classifier.predict_proba(texts, batch_size)
    alone = np.concatenate([classifier.predict_proba([text]) for text in texts])

    def compare_labels(left: NDArray[Any], right: NDArray[Any]) -> float:
        return float((left == right).mean())

    return Parity(
        n_samples=len(texts),
        label_parity=compare_labels(expected.argmax(1), alone.argmax(1)),
        max_proba_difference=float(np.abs(expected - alone).max()),
        mean_proba_difference=float(np.abs(expected - alone).mean()),
        torch_accuracy=compare_labels(expected.argmax(1), y_true),
        bundle_accuracy=compare_labels(alone.argmax(1), y_true),
        batch_label_parity=compare_labels(alone.argmax(1), batched.argmax(1)),
        batch_max_proba_difference=float(np.abs(alone - batched).max()),
    )
