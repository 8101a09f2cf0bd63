"""A real bundle made within milliseconds: words to numbers to three labels, without training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace

from evergreen.text.bundle import MODEL, TOKENIZER, Bundle, CleaningRules, Manifest
from evergreen.text.cleaning import VERSION

LABELS = ["negative", "neutral", "positive"]
WIDTH = 16


def write_bundle(folder: Path, seed: int = 1, labels: Sequence[str] = LABELS) -> Path:
    """Write a bundle whose answers differ from word to word."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["[UNK]", "@", "user", *letters, *(f"word{i}" for i in range(200)), "good", "bad", "the", "flight"]
    rng = np.random.default_rng(seed)
    table, head = rng.normal(size=(len(words), WIDTH)), rng.normal(size=(WIDTH, len(labels)))
    return write_word_bundle(folder, words, table, head, temperature=1.5, labels=labels)


def write_word_bundle(
    folder: Path,
    words: Sequence[str],
    table: NDArray[np.floating],
    head: NDArray[np.floating],
    temperature: float,
    labels: Sequence[str] = LABELS,
) -> Path:
    """Write a bundle in which the mean of the words' vectors decides.

    Args:
        words: the first stands for all others; known in lower case.
        table: vectors, shape [words, width].
        head: shape [width, labels].
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / TOKENIZER))
    constants = {
        "table": table.astype(np.float32),
        "head": head.astype(np.float32),
        "last": np.array([-1], np.int64),
        "width": np.array([1], np.int64),
        "one": np.array([1], np.float32),
    }
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["vectors", "column"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "width"], ["sums"], keepdims=0),
        helper.make_node("ReduceSum", ["column", "width"], ["counts"], keepdims=0),
        helper.make_node("Max", ["counts", "one"], ["lengths"]),  # a text may have no words
        helper.make_node("Div", ["sums", "lengths"], ["sentence_embedding"]),
        helper.make_node("MatMul", ["sentence_embedding", "head"], ["logits"]),
    ]
    tokens = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "t"]) for name in ("input_ids", "attention_mask")
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(labels)]),
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["n", table.shape[1]]),
    ]
    weights = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", tokens, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, folder / MODEL)
    manifest = Manifest(
        version="0.1.0",
        labels=list(labels),
        max_length=32,
        temperature=temperature,
        cleaning=CleaningRules(version=VERSION, public_handles=["united"]),
        data_hash="d" * 64,
        weights_hash="e" * 64,
        trained_at="2026-06-01T00:00:00+00:00",
        data_cutoff="2026-03-01T00:00:00+00:00",
        train_topics=["airline"],
        train_samples=200,
        embedding_size=table.shape[1],
        dtype="float32",
        run="f" * 32,
    )
    return Bundle.write(folder, manifest).folder
