"""The only place that turns a text into an answer, in evaluation, batch and live serving alike."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from evergreen.text import bundle, cleaning

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One answer: the likeliest label and the calibrated probability of each."""

    label: str
    probabilities: dict[str, float]


class Classifier:
    """A verified bundle, ready to answer.

    Args:
        folder: the bundle.
        threads: processor threads for one batch; None leaves the choice to ONNX Runtime.

    Raises:
        BundleError: when the bundle is damaged, incomplete, or made for other rules.
    """

    def __init__(self, folder: Path | str = Path("models/text"), threads: int | None = None) -> None:
        folder = Path(folder)
        self.manifest = bundle.verify(folder)
        if self.manifest.cleaning.version != cleaning.VERSION:
            raise bundle.BundleError(
                f"{folder}: made with cleaning rules {self.manifest.cleaning.version}, this program has "
                f"{cleaning.VERSION}. Use the version of evergreen that made the bundle, or make it again."
            )
        self.labels = self.manifest.labels
        self._clean = cleaning.cleaner(self.manifest.cleaning.public_handles)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(self.manifest.max_tokens)
        # A word has at most a few hundred characters in a tokenizer's eyes; far longer texts are cut before the work.
        self._max_characters = 64 * self.manifest.max_tokens
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, text: str) -> Prediction:
        """Answer one text."""
        return self.predictions([text])[0]

    def predictions(self, texts: Sequence[str], batch_size: int = 32) -> list[Prediction]:
        """Answer texts, in their order."""
        rows = self.probabilities(texts, batch_size)
        return [
            Prediction(
                self.labels[int(row.argmax())], {label: float(p) for label, p in zip(self.labels, row, strict=True)}
            )
            for row in rows
        ]

    def stream(self, texts: Iterable[str], batch_size: int = 32) -> Iterator[Prediction]:
        """Answer any number of texts in constant memory, in their order."""
        iterator = iter(texts)
        while chunk := list(islice(iterator, 32 * batch_size)):
            yield from self.predictions(chunk, batch_size)

    def probabilities(self, texts: Sequence[str], batch_size: int = 32) -> Floats:
        """Calibrated probabilities, shape [texts, labels]; rows sum to 1."""
        return softmax(self.outputs(texts, batch_size)[0] / self.manifest.temperature)

    def outputs(self, texts: Sequence[str], batch_size: int = 32) -> tuple[Floats, Floats]:
        """Logits, shape [texts, labels], and pooled embeddings, shape [texts, embedding size].

        Batches hold texts of like length, so that little of the work is padding.
        """
        cut = [text[: self._max_characters] for text in texts]
        encoded = self._tokenizer.encode_batch_fast([self._clean(text) for text in cut])
        ids = [row.ids for row in encoded]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        logits = np.zeros((len(ids), len(self.labels)), np.float32)
        embeddings = np.zeros((len(ids), self.manifest.embedding_size), np.float32)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            width = max(1, *(len(ids[i]) for i in chosen))  # some tokenizers make nothing of an empty text
            tokens = np.zeros((len(chosen), width), np.int64)
            mask = np.zeros((len(chosen), width), np.int64)
            for row, i in enumerate(chosen):
                tokens[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1
            feeds = {"input_ids": tokens, "attention_mask": mask}
            logits[chosen], embeddings[chosen] = self._session.run(["logits", "sentence_embedding"], feeds)
        return logits, embeddings


def softmax(logits: Floats) -> Floats:
    """Turn logits, shape [n, labels], into probabilities; large logits do not overflow."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Floats = powers / powers.sum(axis=1, keepdims=True)
    return result
