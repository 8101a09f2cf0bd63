"""Parameters: what is refused, how the message names it, and what YAML is read."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from evergreen.params import RENAMED, Params, ParamsError

SHIPPED = Path(__file__).parents[1] / "params.yaml"


@pytest.fixture
def raw() -> dict[str, Any]:
    return copy.deepcopy(YAML(typ="safe", pure=True).load(SHIPPED.read_text(encoding="utf-8")))


def put(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    *sections, last = key.split(".")

    def change(raw: dict[str, Any]) -> None:
        for name in sections:
            raw = raw[name]
        raw[last] = value

    return change


def put_ddim(**values: int) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["reconstruction"].update(method="ddim", **values)


def get_message(raw: dict[str, Any]) -> str:
    with pytest.raises(ParamsError) as error:
        Params.parse(raw)
    assert error.value.exit_code == 2
    return str(error.value)


def test_shipped_parameters():
    shipped = Params.load(SHIPPED)
    assert shipped.data.labels == ["negative", "neutral", "positive"]
    assert set(shipped.data.train_topics) <= {topic.name for topic in shipped.data.topics}


def test_parameters_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Params.load(SHIPPED).seed = 8  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (put("train.epoch", 3), ["train.epoch", "unknown key"]),
        (put("sede", 3), ["sede", "unknown key"]),
        (put("seed", "soon"), ["seed", "'soon'", "integer"]),
        (put("seed", -1), ["seed", "-1", "greater than or equal to 0"]),
        (put("seed", [1]), ["seed", "[1]", "integer"]),
        (put("train", 3), ["train", "3", "dictionary"]),
        (put("train.dropout", 1.0), ["train.dropout", "1.0", "less than 1"]),
        (put("train.learning_rate", float("nan")), ["train.learning_rate", "nan", "finite"]),
        (put("data.labels", ["one"]), ["data.labels", "['one']", "at least 2"]),
        (put("data.labels", ["a", "a"]), ["labels", "['a', 'a']", "once"]),
        (put("data.corpora", "a.csv"), ["data.corpora", "'a.csv'", "list"]),
        (put("data.test_size", 0.95), ["validation_size + test_size", "1.03", "ess than 1"]),
        (put("data.train_topics", ["trains"]), ["train_topics", "['trains']", "airline", "coachella"]),
        (put("data.encoding", "latin-9000"), ["data.encoding", "'latin-9000'", "latin-1"]),
        (put("data.public_handles", ["united", ""]), ["data.public_handles.1", "''", "pattern"]),
        (put("data.public_handles", ["@united"]), ["data.public_handles.0", "'@united'", "pattern"]),
        (put("data.num_partitions", 16), ["data.num_partitions", "no longer needed"]),
        (put("data.batch_rows", 0), ["data.batch_rows", "0", "greater than 0"]),
        (put("data.separator", "||"), ["data.separator", "'||'", "at most 1 character"]),
        (put("data.labels", [False, True]), ["data.labels.0", "False", "quotes", "data.labels.1"]),
        (put("data.labels", [0, 1]), ["data.labels.0", "found 0", "quotes"]),
        (put("export.version", "1.0"), ["export.version", "'1.0'", "pattern"]),
        (put("video.test_size", 0.5), ["normal_fraction + validation_size + test_size", "1.15", "ess than 1"]),
        (put("video.test_kinds", ["patch", "warp"]), ["train_kinds and test_kinds", "['patch']", "one of them"]),
        (put("video.train_kinds", ["fire"]), ["video.train_kinds.0", "'fire'", "freeze"]),
        (put("video.sequence_frames", 8), ["video.sequence_frames", "8", "clips.window"]),
        (put("clips.height", 66), ["clips.height and width", "66 and 152", "Multiples of 4"]),
        (put("clips.stride", 17), ["stride", "17", "At most window (16)"]),
        (put("diffusion.base_model", "hf://a/b"), ["context", "[-4, -2]", "base_model"]),
        (put("diffusion.context", [0]), ["diffusion.context.0", "less than 0"]),
        (
            put("reconstruction.timesteps", [1000]),
            ["reconstruction.timesteps", "[1000]", "Below diffusion.max_timestep, 400"],
        ),
        (put("diffusion.max_timestep", 1001), ["diffusion.max_timestep", "1001", "At most", "num_train_timesteps"]),
        (put("diffusion.max_timestep", 300), ["reconstruction.timesteps", "[120, 300]", "diffusion.max_timestep, 300"]),
        (put_ddim(ddim_depth=500), ["reconstruction.ddim_depth", "500", "At most diffusion.max_timestep, 400"]),
        (put_ddim(ddim_depth=10), ["reconstruction.ddim_steps", "20", "At most reconstruction.ddim_depth"]),
        (put("reconstruction.method", "magic"), ["reconstruction.method", "'magic'", "one_step"]),
        (put("cnn_lstm.block", 65), ["cnn_lstm.block", "65", "clips.height"]),
    ],
)
def test_error_gives_key_value_and_what_is_allowed(raw, change, parts):
    change(raw)
    message = get_message(raw)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("train.epochs", True, "valid number"),
        ("train.freeze_embeddings", "no", "valid boolean"),
        ("train.freeze_embeddings", 1, "valid boolean"),
        ("train.batch_size", 32.0, "valid integer"),
        ("train.batch_size", True, "valid integer"),
        ("train.learning_rate", "1e-4", "valid number"),
        ("seed", "7", "valid integer"),
        ("seed", 7.0, "valid integer"),
    ],
)
def test_values_are_not_converted(raw, key, value, allowed):
    put(key, value)(raw)
    message = get_message(raw)
    assert f"{key}: found {value!r}" in message
    assert allowed in message


@pytest.mark.parametrize("label", ["", " ", "\t\n"])
def test_empty_label(raw, label):
    raw["data"]["labels"][1] = label
    assert f"data.labels.1: found {label!r}" in get_message(raw)


@pytest.mark.parametrize("edges", [[40, 80, 120], [1], [1, 2]])
def test_length_edges(raw, edges):
    raw["evaluate"]["length_edges"] = edges
    assert Params.parse(raw).evaluate.length_edges == edges


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([], "length_edges: found []"),
        ([80, 40], "length_edges: found [80, 40]. each edge must be greater"),
        ([40, 40], "length_edges: found [40, 40]. each edge must be greater"),
        ([0, 40], "length_edges.0: found 0. Input should be greater than 0"),
        ([-40, 40], "length_edges.0: found -40"),
        ([40, 80.5], "length_edges.1: found 80.5"),
        ([40.0], "length_edges.0: found 40.0"),
        (40, "length_edges: found 40"),
    ],
)
def test_length_edges_must_rise_from_above_zero(raw, edges, message):
    raw["evaluate"]["length_edges"] = edges
    assert message in get_message(raw)


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_renamed_key_names_the_new_one(raw, old, new):
    section: dict[str, Any] = raw
    *sections, old_name = old.split(".")
    for name in sections:
        section = section[name]
    section[old_name] = section.pop(new.rpartition(".")[2], "channel")
    message = get_message(raw)
    assert f"{old}: now called {new}" in message
    assert "1 problem(s)" in message
    assert "missing" not in message


def test_missing_key(raw):
    del raw["train"]["base_model"]
    assert "train.base_model: missing. Add it." in get_message(raw)


def test_bad_regular_expression(raw):
    raw["data"]["topics"][0]["pattern"] = "(air"
    assert "data.topics.0.pattern: found '(air'. not a regular expression" in get_message(raw)


def test_duplicate_topic(raw):
    raw["data"]["topics"][1]["name"] = "airline"
    assert "Each name once" in get_message(raw)


def test_train_topics_are_free_with_a_topic_column(raw):
    raw["data"]["columns"]["topic"] = "channel"
    raw["data"]["train_topics"] = ["trains"]
    assert Params.parse(raw).data.train_topics == ["trains"]


def test_all_problems_in_one_message(raw):
    raw["sede"] = 1
    raw["train"]["epochs"] = "many"
    raw["evaluate"]["confidence_level"] = 2
    raw["data"] |= {"labels": ["a", "a"], "train_topics": ["trains"]}
    with pytest.raises(ParamsError) as error:
        Params.parse(raw, "mine.yaml")
    message = str(error.value)
    assert message.startswith("mine.yaml: 4 problem(s)")
    for key in ("sede", "train.epochs", "evaluate.confidence_level", "labels", "train_topics"):
        assert key in message


# Files


def rewrite(path: Path, pattern: str, new: str) -> Path:
    text, count = re.subn(pattern, new, SHIPPED.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert count == 1
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(("written", "value"), [("1e-4", 1e-4), ("2E-05", 2e-5), ("1", 1.0)])
def test_numbers_as_dvc_writes_them(tmp_path, written, value):
    path = rewrite(tmp_path / "p.yaml", r"^  learning_rate: 2.0e-4", f"  learning_rate: {written}")
    assert Params.load(path).train.learning_rate == value


def test_duplicate_key(tmp_path):
    path = rewrite(tmp_path / "p.yaml", "seed: 7\n", "seed: 7\nseed: 8\n")
    with pytest.raises(ParamsError, match=r"p\.yaml: not valid YAML: (?s:.*)duplicate key \"seed\"") as error:
        Params.load(path)
    assert "ruamel" not in str(error.value)


@pytest.mark.parametrize("word", ["yes", "on", "no"])
def test_words_are_no_booleans(tmp_path, word):
    path = rewrite(tmp_path / "p.yaml", "freeze_embeddings: true", f"freeze_embeddings: {word}")
    with pytest.raises(ParamsError, match=f"train.freeze_embeddings: found '{word}'"):
        Params.load(path)


@pytest.mark.parametrize("content", [b"a: [1", b"\xff\xfe\x00", b"", b"- 1", b"just words"])
def test_file_without_parameters(tmp_path, content):
    path = tmp_path / "wrong.yaml"
    path.write_bytes(content)
    with pytest.raises(ParamsError, match=r"wrong\.yaml"):
        Params.load(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ParamsError, match="no such file"):
        Params.load(tmp_path / "none.yaml")
    with pytest.raises(ParamsError, match="no such file, or not one"):
        Params.load(tmp_path)


def test_many_problems_are_a_short_message(raw):
    raw["data"]["labels"] = list(range(150))
    message = get_message(raw)
    assert "150 problem(s)" in message
    assert "and 140 more" in message
    assert len(message.splitlines()) == 12


def test_labels_of_yaml_that_look_like_booleans_are_strings(tmp_path):
    shipped = (Path(__file__).parents[1] / "params.yaml").read_text(encoding="utf-8")
    (tmp_path / "params.yaml").write_text(
        shipped.replace("labels: [negative, neutral, positive]", "labels: [no, yes]"), encoding="utf-8"
    )
    assert Params.load(tmp_path / "params.yaml").data.labels == ["no", "yes"]
