import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from evergreen import params
from evergreen.params import ParamsError

SHIPPED = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def raw() -> dict[str, Any]:
    return copy.deepcopy(yaml.safe_load(SHIPPED.read_text(encoding="utf-8")))


def test_shipped_parameters_load():
    shipped = params.load(SHIPPED)
    assert shipped.data.labels == ["negative", "neutral", "positive"]
    assert set(shipped.data.train_topics) <= {topic.name for topic in shipped.data.topics}


def test_parameters_can_not_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        params.load(SHIPPED).seed = 8  # type: ignore[misc]


def put(*path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(raw: dict[str, Any]) -> None:
        for name in path[:-1]:
            raw = raw[name]
        raw[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put("train", "epoch", value=3), ["train.epoch", "unknown key"]),
        (put("sede", value=3), ["sede", "unknown key"]),
        (put("seed", value="soon"), ["seed", "'soon'", "integer"]),
        (put("seed", value=-1), ["seed", "-1", "greater than or equal to 0"]),
        (put("seed", value=[1]), ["seed", "[1]", "integer"]),
        (put("train", value=3), ["train", "3", "dictionary"]),
        (put("train", "dropout", value=1.0), ["train.dropout", "1.0", "less than 1"]),
        (put("train", "learning_rate", value=float("nan")), ["train.learning_rate", "nan", "finite"]),
        (put("data", "labels", value=["one"]), ["data.labels", "['one']", "at least 2"]),
        (put("data", "labels", value=["a", "a"]), ["labels", "['a', 'a']", "once"]),
        (put("data", "corpora", value="a.csv"), ["data.corpora", "'a.csv'", "list"]),
        (put("data", "test_share", value=0.95), ["validation_share + test_share", "1.03", "ess than 1"]),
        (put("data", "train_topics", value=["trains"]), ["train_topics", "['trains']", "airline", "coachella"]),
        (put("data", "encoding", value="latin-9000"), ["data.encoding", "'latin-9000'", "latin-1"]),
        (put("data", "public_handles", value=["united", ""]), ["data.public_handles.1", "''", "pattern"]),
        (put("data", "public_handles", value=["@united"]), ["data.public_handles.0", "'@united'", "pattern"]),
        (put("data", "buckets", value=0), ["data.buckets", "0", "greater than or equal to 1"]),
        (put("export", "version", value="1.0"), ["export.version", "'1.0'", "pattern"]),
        (put("evaluate", "length_edges", value=[0, 80, 40]), ["evaluate.length_edges", "[0, 80, 40]", "greater"]),
    ],
)
def test_a_wrong_value_is_told_with_what_was_found_and_what_is_allowed(raw, change, told):
    change(raw)
    with pytest.raises(ParamsError) as error:
        params.parse(raw)
    for part in told:
        assert part in str(error.value)


def test_a_missing_key_is_told(raw):
    del raw["train"]["weights"]
    with pytest.raises(ParamsError, match=r"train\.weights: missing"):
        params.parse(raw)


def test_a_bad_regular_expression_is_told(raw):
    raw["data"]["topics"][0]["pattern"] = "(air"
    with pytest.raises(ParamsError, match=r"data\.topics\.0\.pattern: found '\(air'\. not a regular expression"):
        params.parse(raw)


def test_two_topics_of_one_name_are_refused(raw):
    raw["data"]["topics"][1]["name"] = "airline"
    with pytest.raises(ParamsError, match=r"topics: found .*Each name once"):
        params.parse(raw)


def test_train_topics_are_free_where_the_corpus_has_a_source_column(raw):
    raw["data"]["columns"]["source"] = "channel"
    raw["data"]["train_topics"] = ["trains"]
    assert params.parse(raw).data.train_topics == ["trains"]


def test_all_problems_are_told_at_once(raw):
    raw["sede"] = 1
    raw["train"]["epochs"] = "many"
    raw["evaluate"]["confidence"] = 2
    raw["data"] |= {"labels": ["a", "a"], "train_topics": ["trains"]}
    with pytest.raises(ParamsError) as error:
        params.parse(raw, "mine.yaml")
    message = str(error.value)
    assert message.startswith("mine.yaml: 4 problem(s)")
    for key in ("sede", "train.epochs", "evaluate.confidence", "labels", "train_topics"):
        assert key in message


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\x00", b"", b"- 1", b"just words"])
def test_a_file_that_is_not_parameters_is_told(tmp_path, content):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=r"wrong\.yaml"):
        params.load(path)


def test_a_missing_file_or_a_folder_is_told(tmp_path):
    with pytest.raises(ParamsError, match="no such file"):
        params.load(tmp_path / "none.yaml")
    with pytest.raises(ParamsError, match="no such file, or not one"):
        params.load(tmp_path)
