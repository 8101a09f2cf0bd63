"""The command line, on a bundle small enough to build here: answers, order, errors, exit codes, help."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.main import get_command
from typer.testing import CliRunner

import evergreen
from evergreen import cli, tracking
from evergreen.text import bundle, cleaning

LABELS = ["negative", "neutral", "positive"]
TEXTS = ["good flight", "bad flight", "", "flight", "good good bad good", "bad"]
EXPECTED = ["positive", "negative", "neutral", "neutral", "positive", "negative"]


def graph() -> onnx.ModelProto:
    """Add up a vector per token: 'bad' votes for the first label, 'good' for the last, [CLS] for the middle."""
    table = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 2, 0], [2, 0, 0, 0], [0, 0, 0, 1]], np.float32)
    weights = np.eye(4, 3, dtype=np.float32)
    axes = {"input_ids": TensorProto.INT64, "attention_mask": TensorProto.INT64}
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["floats", "last"], ["mask"]),
        helper.make_node("Mul", ["vectors", "mask"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens_axis"], ["sentence_embedding"], keepdims=0),
        helper.make_node("MatMul", ["sentence_embedding", "weights"], ["logits"]),
    ]
    constants = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
        numpy_helper.from_array(np.array([1], np.int64), "tokens_axis"),
    ]
    inputs = [helper.make_tensor_value_info(name, kind, ["batch", "tokens"]) for name, kind in axes.items()]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3]),
        helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", 4]),
    ]
    made = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    onnx.save(graph(), str(folder / "model.onnx"))
    words = {"[UNK]": 0, "[CLS]": 1, "good": 2, "bad": 3, "flight": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    manifest = bundle.Manifest(
        version="1.2.3",
        labels=LABELS,
        max_tokens=16,
        temperature=1.0,
        cleaning=bundle.Cleaning(version=cleaning.VERSION, public_handles=[]),
        data_hash="d" * 64,
        weights_hash="w" * 64,
        trained_at="2026-01-01T00:00:00+00:00",
        trained_until="2026-01-01T00:00:00+00:00",
        trained_on=["airline"],
        embedding_size=4,
        precision="float32",
        run="r" * 32,
        sha256={},
    )
    bundle.write(folder, manifest)
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "MLFLOW_TRACKING_URI",
        "EVERGREEN_LOG_LEVEL",
        "EVERGREEN_TRACKING_TIMEOUT",
        "EVERGREEN_STATE_DIR",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


def call(*args: str, stdin: str | bytes | None = None):
    return CliRunner().invoke(cli.app, list(args), input=stdin)


def answered(out: str) -> list[str]:
    return [json.loads(line)["label"] for line in out.splitlines()]


# predict


def test_predict_shows_the_label_and_every_probability(tiny: Path):
    result = call("predict", "good flight", "--bundle", str(tiny))
    assert result.exit_code == 0
    first, *bars = result.stdout.splitlines()
    assert first == "positive"
    assert [bar.split()[0] for bar in bars] == ["positive", "neutral", "negative"]
    assert all(bar.endswith("%") for bar in bars)


@pytest.mark.parametrize(("text", "label"), zip(TEXTS, EXPECTED, strict=True))
def test_predict_json_holds_a_probability_per_label(tiny: Path, text: str, label: str):
    result = call("predict", text, "--json", "--bundle", str(tiny))
    answer = json.loads(result.stdout)
    assert answer["label"] == label
    assert list(answer["probabilities"]) == LABELS
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def write(path: Path, texts: list[str]) -> str:
    if path.suffix == ".csv":
        lines = ["id,text", *(f'{i},"{text}"' for i, text in enumerate(texts))]
    elif path.suffix == ".jsonl":
        lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(texts)]
    else:
        lines = texts
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl", ".CSV"])
def test_predict_answers_a_file_in_its_order(tiny: Path, tmp_path: Path, suffix: str):
    path = tmp_path / f"texts{suffix.lower()}"
    write(path, TEXTS)
    path = path.rename(tmp_path / f"named{suffix}")
    result = call("predict", "--file", str(path), "--bundle", str(tiny))
    assert result.exit_code == 0
    assert answered(result.stdout) == EXPECTED


def test_predict_keeps_the_order_over_many_chunks(tiny: Path, tmp_path: Path):
    many = write(tmp_path / "many.txt", TEXTS * 400)
    assert answered(call("predict", "--file", many, "--bundle", str(tiny)).stdout) == EXPECTED * 400


def test_predict_reads_lines_of_standard_input(tiny: Path):
    result = call("predict", "--file", "-", "--bundle", str(tiny), stdin="good\r\n\r\nbad")
    assert answered(result.stdout) == ["positive", "neutral", "negative"]
    assert call("predict", "--file", "-", "--bundle", str(tiny), stdin="").stdout == ""


def test_predict_reads_a_csv_with_a_byte_order_mark_and_line_breaks_in_a_text(tiny: Path, tmp_path: Path):
    file = tmp_path / "texts.csv"
    file.write_bytes(b'\xef\xbb\xbftext,id\r\n"good\r\nflight",1\r\nbad,2\r\n')
    result = call("predict", "--file", str(file), "--bundle", str(tiny))
    assert answered(result.stdout) == ["positive", "negative"]


@pytest.mark.parametrize("args", [[], ["good", "--file", "texts.txt"], ["--file", "texts.parquet"], ["--nonsense"]])
def test_wrong_usage_is_2(tiny: Path, args: list[str]):
    result = call("predict", *args, "--bundle", str(tiny))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error" in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.txt", b"good\nbad\n\xff\xfe\ngood\n", ["line 3", "UTF-8"]),
        ("t.csv", b"text\ngood\nbad\n\xff\n", ["line 4", "UTF-8"]),
        ("t.csv", b'text\ngood\nbad\n"never closed\n', ["after line 3", "CSV", "quotes"]),
        ("t.csv", b"id,text\n1,good\n2,bad\n3\n", ["line 4", "no text"]),
        ("t.jsonl", b'{"text": "good"}\n\n{"text": "bad"}\n{"text"\n', ["line 4", "JSON"]),
        ("t.jsonl", b'{"text": "good"}\n{"text": "bad"}\n{"texts": "x"}\n', ["line 3", "key text"]),
        ("t.jsonl", b'{"text": "good"}\n{"text": "bad"}\n{"text": 7}\n', ["line 3", "string"]),
        ("t.jsonl", b'{"text": "good"}\n{"text": "bad"}\n[1]\n', ["line 3", "key text"]),
        ("t.jsonl", b'{"text": "good"}\n{"text": "bad"}\n' + b"[" * 200_000 + b"\n", ["line 3", "JSON"]),
    ],
)
def test_a_bad_row_is_told_after_the_rows_before_it(
    tiny: Path, tmp_path: Path, name: str, content: bytes, told: list[str]
):
    (tmp_path / name).write_bytes(content)
    result = call("predict", "--file", name, "--bundle", str(tiny))
    assert result.exit_code == 1
    assert answered(result.stdout) == ["positive", "negative"]
    assert all(word in result.stderr for word in [name, *told])
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t.csv", b"id,words\n1,good\n", "no column text"),
        ("t.csv", b"", "no column text"),
        ("gone.txt", None, "No such"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tiny: Path, tmp_path: Path, name: str, content: bytes | None, told: str):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = call("predict", "--file", name, "--bundle", str(tiny))
    assert (result.exit_code, result.stdout) == (1, "")
    assert name in result.stderr
    assert told in result.stderr


def test_predict_without_a_bundle_tells_where_to_get_one():
    result = call("predict", "good")
    assert result.exit_code == 1
    assert "models/text/bundle.json: missing" in result.stderr
    assert "dvc pull" in result.stderr


# params, bundle, runs


def test_params_check(tmp_path: Path):
    repository = Path(__file__).parents[1] / "params.yaml"
    assert call("params", "check", str(repository)).stdout == f"{repository}: fine\n"
    wrong = tmp_path / "params.yaml"
    wrong.write_text(repository.read_text(encoding="utf-8").replace("seed: 7", "seed: -1\nsneed: 7"), encoding="utf-8")
    result = call("params", "check")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "seed: found -1" in result.stderr
    assert "sneed: unknown key" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a: [", b""])
def test_an_unreadable_parameter_file_is_2(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "p.yaml").write_bytes(content)
    result = call("params", "check", "p.yaml")
    assert result.exit_code == 2
    assert "p.yaml" in result.stderr


def test_bundle_verify_tells_what_the_bundle_is(tiny: Path):
    result = call("bundle", "verify", str(tiny))
    assert result.exit_code == 0
    for told in ("fine", "1.2.3", "negative, neutral, positive", "float32", "kB", "d" * 64):
        assert told in result.stdout


def test_bundle_verify_names_a_changed_file(tiny: Path, tmp_path: Path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"!")
    result = call("bundle", "verify", str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "model.onnx: changed" in result.stderr


@pytest.mark.parametrize(
    ("flushed", "code", "told"),
    [
        (tracking.Flushed(3, 0), 0, ""),
        (
            tracking.Flushed(1, 2, "no connection to http://me:hush@tracking:5000"),
            1,
            "http://***@tracking:5000",
        ),
    ],
)
def test_runs_send(monkeypatch: pytest.MonkeyPatch, flushed: tracking.Flushed, code: int, told: str):
    monkeypatch.setattr(tracking, "flush", lambda _settings: flushed)
    result = call("runs", "send")
    assert result.exit_code == code
    assert result.stdout == f"{flushed.sent} sent, {flushed.kept} kept\n"
    assert told in result.stderr
    assert "hush" not in result.output


# The whole


def test_version():
    assert call("--version").stdout == f"evergreen {evergreen.__version__}\n"


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EVERGREEN_LOG_LEVEL", "loud")
    result = call("params", "check")
    assert result.exit_code == 2
    assert "EVERGREEN_LOG_LEVEL: found 'loud'" in result.stderr


def test_verbose_overrides_the_log_level(monkeypatch: pytest.MonkeyPatch):
    levels: list[str] = []
    monkeypatch.setattr(cli.logs, "configure", levels.append)
    call("-v", "params", "check")
    call("params", "check")
    assert levels == ["info", "warning"]


def test_an_unknown_exception_is_not_swallowed(monkeypatch: pytest.MonkeyPatch):
    def broken(settings: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tracking, "flush", broken)
    assert isinstance(call("runs", "send").exception, ZeroDivisionError)


def every_command(command, path: tuple[str, ...] = ()):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, (*path, name))


@pytest.mark.parametrize("path", every_command(get_command(cli.app)), ids=" ".join)
def test_help_ends_with_an_example_of_the_command(path: tuple[str, ...]):
    result = call(*path, "--help")
    assert result.exit_code == 0
    last = [line.strip() for line in result.stdout.splitlines() if line.strip()][-1]
    assert last.startswith("Example:")
    assert " ".join(["evergreen", *path]) in last


def test_root_help_tells_the_exit_codes():
    told = " ".join(call("--help").stdout.split())
    assert "Exit codes: 0 fine · 1 the work failed" in told
    assert "2 wrong usage or parameters" in told


def test_importing_the_command_line_is_light():
    heavy = ["torch", "transformers", "mlflow", "pandas", "matplotlib", "datasets", "onnxruntime", "dvc"]
    code = f"import sys, evergreen.cli; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_the_installed_program(tiny: Path):
    program = [sys.executable, "-c", "from evergreen.cli import main; main()"]
    command = [*program, "predict", "--file", "-", "--bundle", str(tiny)]
    environment = os.environ | {"PYTHONUTF8": "1"}
    texts = b"good\nbad\n\xff\n"
    done = subprocess.run(command, input=texts, capture_output=True, env=environment, check=False)
    assert done.returncode == 1
    assert answered(done.stdout.decode()) == ["positive", "negative"]
    assert done.stderr.decode().splitlines() == ["Error: standard input, line 3: not UTF-8. Save the file as UTF-8."]
