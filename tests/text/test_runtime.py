"""The runtime: every text gets an answer, in order, alone as in a batch."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen.text.bundle import Bundle
from evergreen.text.runtime import Classifier, Prediction, softmax

ODD = {
    "empty": "",
    "space": " \t\n\u2003",
    "long": "delayed again " * 7200,
    "one word": "x" * 100_000,
    "emoji": "😡✈️👨‍👩‍👧‍👦🇩🇪",
    "null": "\0\0a\0",
    "lone surrogate": "\ud800 late \udfff",
    "arabic": "الرحلة متأخرة",
    "chinese": "航班又晚点了",
    "marks": "e" + "\u0301" * 500,
    "controls": "".join(map(chr, range(0x20))),
    "special tokens": "[CLS] [SEP] [PAD] [UNK]",
}
SLOW = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
ANYTHING = st.text(st.characters(exclude_categories=()), max_size=80)


def sound(answer: Prediction, labels: list[str]) -> None:
    assert list(answer.probabilities) == labels
    assert answer.label == max(answer.probabilities, key=answer.probabilities.__getitem__)
    assert sum(answer.probabilities.values()) == pytest.approx(1, abs=1e-5)
    assert all(0 <= p <= 1 for p in answer.probabilities.values())


@pytest.mark.parametrize("text", ODD.values(), ids=ODD.keys())
def test_odd_texts_are_answered(int8: Classifier, text: str) -> None:
    sound(int8(text), int8.labels)


@SLOW
@given(st.lists(ANYTHING, max_size=6))
def test_any_texts_are_answered(int8: Classifier, texts: list[str]) -> None:
    predictions = int8.predict(texts, 4)
    assert len(predictions) == len(texts)
    for prediction in predictions:
        sound(prediction, int8.labels)


def test_a_text_that_becomes_no_token_is_answered(float_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(float_folder, tmp_path / "bundle"))
    tokens = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(tokens | {"post_processor": None}))
    Bundle.write(folder, Bundle.load(float_folder).manifest)
    plain = Classifier.load(folder, num_threads=1)
    sound(plain(""), plain.labels)
    alone, beside = plain.predict_proba([""])[0], plain.predict_proba(["", "late again"])[0]
    assert beside == pytest.approx(alone, abs=1e-5)


def test_no_texts_no_predictions(int8: Classifier) -> None:
    assert int8.predict([]) == []
    assert list(int8.predict_stream([])) == []
    assert int8.predict_proba([]).shape == (0, 3)


def test_answers_keep_the_order_of_the_texts(float32: Classifier, texts: list[str]) -> None:
    some = texts[:50]
    rows = float32.predict_proba(some, 8)
    assert np.unique(rows.round(4), axis=0).shape[0] > 20  # the model distinguishes the texts
    assert float32.predict_proba(some[::-1], 8) == pytest.approx(rows[::-1], abs=1e-5)
    alone = np.concatenate([float32.predict_proba([text]) for text in some])
    assert rows == pytest.approx(alone, abs=1e-5)


def test_stream_gives_the_answers_of_predictions(int8: Classifier, texts: list[str]) -> None:
    some = texts[:70]
    expected = [a for start in (0, 32, 64) for a in int8.predict(some[start : start + 32], 1)]
    assert list(int8.predict_stream(iter(some), batch_size=1)) == expected
    assert [a.label for a in int8.predict_stream(some, 4)] == [a.label for a in int8.predict(some, 4)]


def test_stream_takes_no_more_than_it_needs(int8: Classifier) -> None:
    taken = 0

    def endless() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield f"text {taken}"

    stream = int8.predict_stream(endless(), batch_size=2)  # type: ignore[arg-type]
    assert len([next(stream) for _ in range(3)]) == 3
    assert taken == 64


@SLOW
@given(st.data(), st.integers(1, 32), st.sampled_from(["int8", "float32"]))
def test_a_text_has_one_answer_alone_and_in_any_batch(
    int8: Classifier, float32: Classifier, texts: list[str], data: st.DataObject, size: int, dtype: str
) -> None:
    classifier = int8 if dtype == "int8" else float32
    some = data.draw(st.lists(st.sampled_from(texts) | ANYTHING, min_size=1, max_size=32))
    alone = np.concatenate([classifier.predict_proba([text]) for text in some])
    batched = classifier.predict_proba(some, size)
    assert np.abs(batched - alone).max() <= 1e-4
    assert (batched.argmax(1) == alone.argmax(1)).all()


@SLOW
@given(st.data(), st.integers(0, 60))
def test_padding_changes_no_answer(int8: Classifier, texts: list[str], data: st.DataObject, padding: int) -> None:
    text = data.draw(st.sampled_from(texts))
    ids = int8._tokenizer.encode(text).ids
    tokens = np.array([ids + [0] * padding], np.int64)[:, :64]
    mask = (np.arange(tokens.shape[1]) < len(ids)).astype(np.int64)[None]
    padded = int8._session.run(["logits"], {"input_ids": tokens, "attention_mask": mask})[0]
    plain = int8._session.run(["logits"], {"input_ids": tokens[:, : len(ids)], "attention_mask": mask[:, : len(ids)]})[
        0
    ]
    assert np.abs(padded - plain).max() <= 1e-4


@SLOW
@given(
    st.lists(
        st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
        min_size=1,
        max_size=5,
    )
)
def test_softmax_survives_any_logits(rows: list[list[float]]) -> None:
    with np.errstate(over="ignore"):
        y_proba = softmax(np.array(rows, np.float32))
    assert np.isfinite(y_proba).all()
    assert y_proba.sum(1) == pytest.approx(np.ones(len(rows)), abs=1e-6)


def test_softmax_by_hand() -> None:
    y_proba = softmax(np.log(np.array([[1, 2, 1], [1e-30, 1e-30, 1e-30]], np.float32)))
    assert y_proba == pytest.approx(np.array([[0.25, 0.5, 0.25], [1 / 3, 1 / 3, 1 / 3]]), abs=1e-6)


def test_probabilities_are_divided_by_the_temperature(float32: Classifier, texts: list[str]) -> None:
    logits, embeddings = float32.forward(texts[:5])
    assert embeddings.shape == (5, 32)
    assert float32.predict_proba(texts[:5]) == pytest.approx(softmax(logits / 1.5), abs=1e-6)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("@someone late again", "@user late again"),
        ("see https://t.co/abc?x=1 now", "see http now"),
        ("rock &amp;amp; roll", "rock & roll"),
        ("  two\n\nspaces ", "two spaces"),
    ],
)
def test_texts_are_cleaned_as_in_training(float32: Classifier, raw: str, clean: str) -> None:
    assert float32(raw) == float32(clean)


def test_public_handles_stay_what_they_are(float32: Classifier) -> None:
    assert float32("@united late again") != float32("@user late again")


def test_what_lies_beyond_max_length_changes_nothing(float32: Classifier) -> None:
    same = "late again " * 40
    assert float32(same + "lovely") == float32(same + "awful")
    assert float32("late again lovely") != float32("late again awful")


def test_the_runtime_needs_no_training_stack(int8_folder: Path) -> None:
    program = (
        "import sys, json; from evergreen.text.runtime import Classifier;"
        f"answer = Classifier.load({str(int8_folder)!r}, 1)('late again').label;"
        "print(json.dumps([answer, sorted(m for m in sys.modules if '.' not in m)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    answer, modules = json.loads(done.stdout)
    assert answer in ("negative", "neutral", "positive")
    assert "onnxruntime" in modules
    heavy = {"torch", "transformers", "datasets", "mlflow", "pandas", "pandera", "sklearn", "matplotlib"}
    assert not heavy & set(modules)
