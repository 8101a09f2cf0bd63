"""The only place that turns a text into an answer, in evaluation, batch and live serving alike."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tokenizers import Tokenizer

from evergreen.bundle import BundleError
from evergreen.onnx_session import load_session
from evergreen.text.bundle import MODEL, TOKENIZER, Bundle
from evergreen.text.cleaning import VERSION, build_cleaner

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """One answer: the likeliest label and the calibrated probability of each."""

    label: str
    probabilities: dict[str, float]


class Classifier:
    """A bundle, ready to predict; a text gets the same answer alone and in any batch.

    Args:
        bundle: a verified bundle.
        num_threads: processor threads for one batch; None leaves the choice to ONNX Runtime.

    Raises:
        BundleError: when the bundle was made for other cleaning rules, or its parts do not fit together.

    Example:
        >>> classifier = Classifier.load("models/text")
        >>> prediction = classifier("Thanks for the quick rebooking!")
        >>> prediction.label in classifier.labels
        True
    """

    def __init__(self, bundle: Bundle, num_threads: int | None = None) -> None:
        self.manifest = bundle.manifest
        self.labels = bundle.manifest.labels
        rules = self.manifest.cleaning
        if rules.version != VERSION:
            raise BundleError(
                f"{bundle.folder}: made with cleaning rules {rules.version}, this program has {VERSION}. "
                "Use the version of evergreen that made the bundle, or make it again."
            )
        self._clean = build_cleaner(rules.public_handles)
        self._tokenizer = _load_tokenizer(bundle)
        # A word has at most a few hundred characters in a tokenizer's eyes; far longer texts are cut before the work.
        self._max_characters = 64 * self.manifest.max_length
        self._session = _load_session(bundle, num_threads)

    @classmethod
    def load(cls, folder: Path | str = "models/text", num_threads: int | None = None) -> Self:
        """Verify the bundle in a folder and make it ready; see the class for `num_threads`.

        Raises:
            BundleError: when the bundle is damaged, incomplete, or made for other rules.
        """
        return cls(Bundle.load(folder), num_threads)

    def __call__(self, text: str) -> Prediction:
        """Predict one text."""
        return self.predict([text])[0]

    def predict(self, texts: Sequence[str], batch_size: int = 32) -> list[Prediction]:
        """Predict texts, in their order."""
        return [
            Prediction(
                self.labels[int(row.argmax())], {label: float(p) for label, p in zip(self.labels, row, strict=True)}
            )
            for row in self.predict_proba(texts, batch_size)
        ]

    def clean(self, text: str) -> str:
        """Cut and clean a text as the model reads it; the log keeps this form."""
        return self._clean(text[: self._max_characters])

    def find_cut(self, texts: Sequence[str]) -> list[bool]:
        """Whether each text is longer than the model reads, so that its end is cut."""
        encoded = self._tokenizer.encode_batch_fast([self.clean(text) for text in texts])
        pairs = zip(texts, encoded, strict=True)
        return [len(text) > self._max_characters or bool(row.overflowing) for text, row in pairs]

    def predict_stream(self, texts: Iterable[str], batch_size: int = 32) -> Iterator[Prediction]:
        """Predict any number of texts in constant memory, in their order."""
        iterator = iter(texts)
        while chunk := list(islice(iterator, 32 * batch_size)):
            yield from self.predict(chunk, batch_size)

    def predict_proba(self, texts: Sequence[str], batch_size: int = 32) -> Floats:
        """Calibrated probabilities, shape [texts, labels]; rows sum to 1."""
        return softmax(self.forward(texts, batch_size)[0] / self.manifest.temperature)

    def forward(self, texts: Sequence[str], batch_size: int = 32) -> tuple[Floats, Floats]:
        """Logits, shape [texts, labels], and pooled embeddings, shape [texts, embedding size].

        Batches hold texts of like length, so that little of the work is padding.
        """
        encoded = self._tokenizer.encode_batch_fast([self.clean(text) for text in texts])
        ids = [row.ids for row in encoded]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        logits = np.zeros((len(ids), len(self.labels)), np.float32)
        embeddings = np.zeros((len(ids), self.manifest.embedding_size), np.float32)
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            width = max(1, *(len(ids[i]) for i in batch))  # some tokenizers make nothing of an empty text
            tokens = np.zeros((len(batch), width), np.int64)
            mask = np.zeros((len(batch), width), np.int64)
            for row, i in enumerate(batch):
                tokens[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1
            feeds = {"input_ids": tokens, "attention_mask": mask}
            logits[batch], embeddings[batch] = self._session.run(["logits", "sentence_embedding"], feeds)
        return logits, embeddings


def _load_tokenizer(bundle: Bundle) -> Tokenizer:
    file = bundle.folder / TOKENIZER
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise BundleError(f"{file}: not a tokenizer ({error}). Make the bundle again.") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(bundle.manifest.max_length)
    return tokenizer


def _load_session(bundle: Bundle, num_threads: int | None) -> onnxruntime.InferenceSession:
    file = bundle.folder / MODEL
    session = load_session(file, num_threads)
    widths = {output.name: output.shape[-1] for output in session.get_outputs()}
    manifest = bundle.manifest
    if widths != {"logits": len(manifest.labels), "sentence_embedding": manifest.embedding_size}:
        raise BundleError(
            f"{file}: its outputs are {widths}, but the manifest names {len(manifest.labels)} labels and an embedding "
            f"of {manifest.embedding_size}. Make the bundle again."
        )
    return session


def softmax(logits: Floats) -> Floats:
    """Turn logits, shape [n, labels], into probabilities; large logits do not overflow."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    y_proba: Floats = powers / powers.sum(axis=1, keepdims=True)
    return y_proba
