"""Forms of the bundle side by side: size, accuracy, parity with float32, whether a text has one answer, speed.

Run it after `dvc repro`, with nothing else running: python benchmarks/quantization.py [--rounds N]
Rounds are interleaved, so that what slows the machine slows every form.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
from record import save_result
from transformers import AutoTokenizer

from evergreen.params import Params
from evergreen.text import export
from evergreen.text.bundle import MODEL, Bundle
from evergreen.text.evaluation import encode_labels
from evergreen.text.model import TextClassifier
from evergreen.text.quantization import quantize
from evergreen.text.runtime import Classifier, softmax

DATA, BUNDLE, WEIGHTS = Path("data/text"), Path("models/text"), Path("models/text-weights")
RESULT = Path("benchmarks/results/quantization.json")
FLOAT, BASE = "float32", "dynamic int8"
BATCH_SIZE = 32


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Feeds ONNX Runtime's own calibration."""

    def __init__(self, feeds: list[export.Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> export.Feed | None:
        """The next text, or None."""
        return next(self._feeds, None)


def build_forms(feeds: list[export.Feed]) -> dict[str, Callable[[Path], Any]]:
    """Name each form with what writes it to a path."""
    labels = Bundle.load(BUNDLE).manifest.labels
    model = TextClassifier.from_pretrained(WEIGHTS, labels).eval()
    plain = export._trace(model)
    fused = export._export_onnx(model, feeds[:8])
    constant = {tensor.name for tensor in plain.graph.initializer}
    products = [node.name for node in plain.graph.node if node.op_type == "MatMul" and node.input[1] in constant]
    int8 = {"weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}

    def copy() -> onnx.ModelProto:
        return onnx.ModelProto.FromString(plain.SerializeToString())  # the library's own forms change what they get

    def write_nbits(path: Path) -> None:
        config = DefaultWeightOnlyQuantConfig(block_size=128, is_symmetric=True, accuracy_level=4, bits=8)
        quantizer = MatMulNBitsQuantizer(copy(), algo_config=config)
        quantizer.process()
        quantizer.model.save_model_to_file(str(path))

    return {
        BASE: lambda path: quantize_dynamic(copy(), path, **int8),
        "static int8, this bundle's": lambda path: onnx.save(quantize(fused, feeds), path),
        "static int8, ONNX Runtime's": lambda path: quantize_static(
            copy(), path, Reader(feeds), quant_format=QuantFormat.QDQ, nodes_to_quantize=products, **int8
        ),
        "8-bit weights, MatMulNBits": write_nbits,
        "float32, fused attention": lambda path: onnx.save(fused, path),
        FLOAT: lambda path: onnx.save(plain, path),
    }


def measure_invariance(classifier: Classifier, texts: list[str], seed: int) -> tuple[float, int]:
    """Largest change of a probability, and number of changed labels, between alone and in shuffled, padded batches."""
    rng = np.random.default_rng(seed)
    ids = [row.ids for row in classifier._tokenizer.encode_batch_fast(texts)]
    logits = np.zeros((len(ids), len(classifier.labels)), np.float32)
    order = rng.permutation(len(ids))
    for start in range(0, len(order), BATCH_SIZE):
        batch = order[start : start + BATCH_SIZE]
        width = max(len(ids[i]) for i in batch) + int(rng.integers(0, 30))
        tokens = np.zeros((len(batch), width), np.int64)
        mask = np.zeros((len(batch), width), np.int64)
        for row, i in enumerate(batch):
            tokens[row, : len(ids[i])] = ids[i]
            mask[row, : len(ids[i])] = 1
        logits[batch] = classifier._session.run(["logits"], {"input_ids": tokens, "attention_mask": mask})[0]
    batched = softmax(logits / classifier.manifest.temperature)
    alone = np.concatenate([classifier.predict_proba([text]) for text in texts])
    return float(np.abs(alone - batched).max()), int((alone.argmax(1) != batched.argmax(1)).sum())


def measure_speed(classifiers: dict[str, Classifier], texts: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Texts per second in batches and p50 of one text, each also relative to dynamic int8, round by round."""
    single = texts[:: max(1, len(texts) // 60)]
    batch_times: dict[str, list[float]] = {name: [] for name in classifiers}
    single_times: dict[str, list[float]] = {name: [] for name in classifiers}
    for number in range(rounds + 1):
        for name in list(classifiers) if number % 2 else reversed(classifiers):
            started = time.perf_counter()
            classifiers[name].predict_proba(texts, BATCH_SIZE)
            seconds = time.perf_counter() - started
            times = []
            for text in single:
                started = time.perf_counter()
                classifiers[name](text)
                times.append(time.perf_counter() - started)
            if number:  # the first round warms up
                batch_times[name].append(seconds)
                single_times[name].append(median(times))
    return {
        name: {
            "texts_per_second": len(texts) / median(batch_times[name]),
            "relative_batch_speed": median(np.divide(batch_times[BASE], batch_times[name]).tolist()),
            "p50_ms": 1000 * median(single_times[name]),
            "relative_single_speed": median(np.divide(single_times[BASE], single_times[name]).tolist()),
        }
        for name in classifiers
    }


def measure_accuracy(classifiers: dict[str, Classifier], rows: pd.DataFrame, split: str) -> dict[str, dict[str, float]]:
    """Accuracy of each form, and the fraction of labels that float32 gives too."""
    y_true = encode_labels(rows["label"], classifiers[FLOAT].labels)
    texts = rows["text"].tolist()
    y_pred = {name: model.predict_proba(texts, BATCH_SIZE).argmax(1) for name, model in classifiers.items()}
    return {
        name: {
            f"{split}_accuracy": float((predicted == y_true).mean()),
            f"{split}_label_parity": float((predicted == y_pred[FLOAT]).mean()),
        }
        for name, predicted in y_pred.items()
    }


def main() -> None:
    """Build every form from the trained weights, measure it, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    params = Params.load()
    manifest = Bundle.load(BUNDLE).manifest
    tokenizer = AutoTokenizer.from_pretrained(WEIGHTS)
    splits = {name: pd.read_parquet(DATA / f"{name}.parquet") for name in ("train", "validation", "test")}
    texts = splits["train"]["text"].head(params.export.calibration_samples)
    feeds = [export.encode(tokenizer, text, manifest.max_length) for text in texts]
    with TemporaryDirectory() as scratch:
        classifiers, sizes = {}, {}
        for name, write in build_forms(feeds).items():
            folder = Path(scratch) / name
            folder.mkdir()
            tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
            write(folder / MODEL)
            bundle = Bundle.write(folder, manifest)
            classifiers[name] = Classifier(bundle, params.evaluate.num_threads)
            sizes[name] = bundle.size_bytes / 1e6
        speeds = measure_speed(classifiers, splits["test"]["text"].tolist()[:640], args.rounds)
        accuracies = [measure_accuracy(classifiers, splits[split], split) for split in ("validation", "test")]
        table: dict[str, dict[str, float]] = {}
        for name, classifier in classifiers.items():
            difference, changed = measure_invariance(classifier, splits["validation"]["text"].tolist(), params.seed)
            table[name] = {
                "size_mb": sizes[name],
                "alone_max_proba_difference": difference,
                "alone_changed_labels": changed,
                **speeds[name],
            }
            for scores in accuracies:
                table[name] |= scores[name]
            print(name, {key: round(value, 4) for key, value in table[name].items()}, file=sys.stderr)
    save_result(RESULT, ("onnxruntime", "onnx", "torch", "transformers"), table=table)


if __name__ == "__main__":
    main()
