"""From the torch model to ONNX, to int8, and the check that the bundle still gives its answers."""

import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from evergreen.bundle import BundleError
from evergreen.logs import get_logger
from evergreen.onnx_export import export_onnx
from evergreen.params import ExportParams, Params
from evergreen.text.bundle import MODEL, TOKENIZER, Bundle, CleaningRules, Manifest
from evergreen.text.cleaning import VERSION
from evergreen.text.metrics import Parity
from evergreen.text.model import TextClassifier
from evergreen.text.quantization import quantize as quantize_static
from evergreen.text.runtime import Classifier, softmax
from evergreen.text.training import TrainingResult

log = get_logger(__name__)
FUSED = "evergreen_fused"
Feed = dict[str, NDArray[np.int64]]


class ExportError(BundleError):
    """The bundle does not agree with the model that it was made from."""


def export_bundle(result: TrainingResult, weights_hash: str, params: Params, data: Path, folder: Path) -> Bundle:
    """Write the bundle of a trained model into `folder`, in place of what is there.

    Args:
        weights_hash: of the torch weights, as `TrainingResult.save_pretrained` returns it.
        data: the prepared corpus, whose training texts give the ranges of int8.
    """
    shutil.rmtree(folder, ignore_errors=True)
    train = pq.ParquetFile(data / "train.parquet")
    texts = next(train.iter_batches(params.export.calibration_samples, columns=["text"]))["text"].to_pylist()
    feeds = [encode(result.tokenizer, text, params.train.max_length) for text in texts]
    export_model(result.model, result.tokenizer, folder, params.export.quantize, feeds)
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
        dtype="float32" if params.export.quantize == "none" else "int8",
        run=uuid.uuid4().hex,
    )
    return Bundle.write(folder, manifest)


def export_model(model: TextClassifier, tokenizer: Any, folder: Path, quantize: str, feeds: list[Feed]) -> None:
    """Write `model.onnx` (one file) and `tokenizer.json` into `folder`; the same weights give the same bytes.

    Args:
        quantize: `static` for int8, `none` for float32.
        feeds: encoded texts from which the ranges of int8 are taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    program = _export_onnx(model, feeds[:8])
    if quantize == "static":
        program = quantize_static(program, feeds)
    (folder / MODEL).write_bytes(program.SerializeToString(deterministic=True))


def encode(tokenizer: Any, text: str, max_length: int) -> Feed:
    """Encode one clean text as the graph's inputs, [1, tokens]."""
    encoded = tokenizer(text, truncation=True, max_length=max_length, return_tensors="np")
    return {name: encoded[name].astype(np.int64) for name in ("input_ids", "attention_mask")}


def _export_onnx(model: TextClassifier, feeds: list[Feed]) -> onnx.ModelProto:
    """Export with each attention as one operator, which is faster, where that gives the model's own answers."""
    model = model.eval()
    encoder = model.encoder
    implementation = encoder.config._attn_implementation
    try:
        encoder.set_attn_implementation(FUSED)
        fused = _trace(model)
    except Exception as error:  # whatever a model's own code raises
        log.info("attention is not fused", reason=str(error))
        fused = None
    finally:
        encoder.set_attn_implementation(implementation)
    return fused if fused is not None and _is_equal(fused, model, feeds) else _trace(model)


def _is_equal(program: onnx.ModelProto, model: TextClassifier, feeds: list[Feed]) -> bool:
    width = max(feed["input_ids"].shape[1] for feed in feeds)
    batch = {
        name: np.concatenate([np.pad(feed[name], ((0, 0), (0, width - feed[name].shape[1]))) for feed in feeds])
        for name in feeds[0]
    }
    with torch.inference_mode():
        expected = model(*(torch.from_numpy(batch[name]) for name in ("input_ids", "attention_mask")))["logits"]
    session = onnxruntime.InferenceSession(program.SerializeToString(), providers=["CPUExecutionProvider"])
    equal = np.allclose(session.run(["logits"], batch)[0], expected.numpy(), atol=1e-3)
    if not equal:
        log.info("attention is not fused", reason="other answers")
    return equal


class _Positional(nn.Module):
    def __init__(self, model: TextClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model(input_ids, attention_mask)
        return outputs["logits"], outputs["sentence_embedding"]


def _trace(model: TextClassifier) -> onnx.ModelProto:
    # Two unequal texts, so that neither dimension is taken for a constant.
    ids = torch.ones(2, 7, dtype=torch.long)
    mask = torch.ones(2, 7, dtype=torch.long)
    mask[1, 4:] = 0
    dynamic = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    names = ["input_ids", "attention_mask"], ["logits", "sentence_embedding"]
    return export_onnx(_Positional(model), (ids, mask), (dynamic, dynamic), *names)


def _attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    **options: Any,
) -> tuple[Tensor, None]:
    """Stand in for a model's attention, inputs [batch, heads, tokens, size], with ONNX Runtime's operator."""
    if getattr(module, "is_causal", False):
        raise ValueError("causal")
    batch, heads, tokens, size = query.shape
    flat = [tensor.transpose(1, 2).reshape(batch, tokens, heads * size) for tensor in (query, key, value)]
    attended = torch.onnx.ops.symbolic(
        "com.microsoft::MultiHeadAttention",
        (*flat, None, attention_mask),
        {"num_heads": heads, "scale": float(options.get("scaling") or size**-0.5)},
        dtype=query.dtype,
        shape=(batch, tokens, heads * size),
        version=1,
    )
    return attended.reshape(batch, tokens, heads, size), None


def _pass_mask(*_: Any, attention_mask: Tensor, **__: Any) -> Tensor:
    return attention_mask.to(torch.int32)


AttentionInterface.register(FUSED, _attend)
AttentionMaskInterface.register(FUSED, _pass_mask)


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
