"""The command line, on a bundle small enough to build here: predictions, order, errors, exit codes, help."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import numpy as np
import onnx
import psutil
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from typer.main import get_command
from typer.testing import CliRunner

import evergreen
from evergreen import cli, tracking
from evergreen.text.bundle import Bundle, CleaningRules, Manifest
from evergreen.text.cleaning import VERSION

pytestmark = pytest.mark.usefixtures("clean_environment")

LABELS = ["negative", "neutral", "positive"]
TEXTS = ["good flight", "bad flight", "", "flight", "good good bad good", "bad"]
EXPECTED = ["positive", "negative", "neutral", "neutral", "positive", "negative"]
MANIFEST = Manifest(
    version="1.2.3",
    labels=LABELS,
    max_length=16,
    temperature=1.0,
    cleaning=CleaningRules(version=VERSION, public_handles=[]),
    data_hash="d" * 64,
    weights_hash="w" * 64,
    trained_at="2026-01-01T00:00:00+00:00",
    data_cutoff="2026-01-01T00:00:00+00:00",
    train_topics=["airline"],
    train_samples=9,
    embedding_size=4,
    dtype="float32",
    run="r" * 32,
)


def build_graph() -> onnx.ModelProto:
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
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    onnx.save(build_graph(), str(folder / "model.onnx"))
    words = {"[UNK]": 0, "[CLS]": 1, "good": 2, "bad": 3, "flight": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    Bundle.write(folder, MANIFEST)
    return folder


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")


def call(*args: str, stdin: str | bytes | None = None):
    return CliRunner().invoke(cli.app, list(args), input=stdin)


def get_labels(out: str) -> list[str]:
    return [json.loads(line)["label"] for line in out.splitlines()]


# predict


def test_predict_prints_the_label_and_every_probability(tiny: Path):
    result = call("predict", "good flight", "--bundle", str(tiny))
    assert result.exit_code == 0
    first, *bars = result.stdout.splitlines()
    assert first == "positive"
    assert [bar.split()[0] for bar in bars] == ["positive", "neutral", "negative"]
    assert all(bar.endswith("%") for bar in bars)


@pytest.mark.parametrize(("text", "label"), zip(TEXTS, EXPECTED, strict=True))
def test_predict_json_has_a_probability_per_label(tiny: Path, text: str, label: str):
    result = call("predict", text, "--json", "--bundle", str(tiny))
    prediction = json.loads(result.stdout)
    assert prediction["label"] == label
    assert list(prediction["probabilities"]) == LABELS
    assert sum(prediction["probabilities"].values()) == pytest.approx(1)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".jsonl"])
def test_predict_keeps_the_order_of_a_file(tiny: Path, tmp_path: Path, suffix: str):
    lines = {
        ".txt": TEXTS,
        ".csv": ["text", *(f'"{text}"' for text in TEXTS)],
        ".jsonl": [json.dumps({"text": text}) for text in TEXTS],
    }[suffix]
    file = tmp_path / f"texts{suffix}"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = call("predict", "--file", str(file), "--bundle", str(tiny))
    assert result.exit_code == 0
    assert get_labels(result.stdout) == EXPECTED


def test_predict_keeps_the_order_over_many_batches(tiny: Path, tmp_path: Path):
    (tmp_path / "many.txt").write_text("\n".join(TEXTS * 400) + "\n")
    assert get_labels(call("predict", "--file", "many.txt", "--bundle", str(tiny)).stdout) == EXPECTED * 400


def test_predict_reads_standard_input(tiny: Path):
    result = call("predict", "--file", "-", "--bundle", str(tiny), stdin="good\r\n\r\nbad")
    assert get_labels(result.stdout) == ["positive", "neutral", "negative"]
    assert call("predict", "--file", "-", "--bundle", str(tiny), stdin="").stdout == ""


@pytest.mark.parametrize("args", [[], ["good", "--file", "texts.txt"], ["--file", "texts.parquet"], ["--nonsense"]])
def test_wrong_usage_is_2(tiny: Path, args: list[str]):
    result = call("predict", *args, "--bundle", str(tiny))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "error" in result.stderr.lower()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.txt", b"good\nbad\n\xff\xfe\ngood\n", "line 3: not UTF-8"),
        ("t.csv", b"id,text\n1,good\n2,bad\n3\n", "line 4: no text"),
        ("t.jsonl", b'{"text": "good"}\n\n{"text": "bad"}\n{"text"\n', "line 4: not JSON"),
    ],
)
def test_predict_reports_a_bad_row_after_the_rows_before_it(tiny: Path, name: str, content: bytes, message: str):
    Path(name).write_bytes(content)
    result = call("predict", "--file", name, "--bundle", str(tiny))
    assert result.exit_code == 1
    assert get_labels(result.stdout) == ["positive", "negative"]
    assert result.stderr.startswith(f"error: {name}, {message}")
    assert len(result.stderr.splitlines()) == 1


def test_predict_names_a_missing_file(tiny: Path):
    result = call("predict", "--file", "none.txt", "--bundle", str(tiny))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: none.txt: No such file")


def test_predict_without_a_bundle():
    result = call("predict", "good")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: models/text/bundle.json: missing")
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
    wrong.write_text(repository.read_text(encoding="utf-8").replace("max_days: 180", "max_days: 0"), encoding="utf-8")
    result = call("params", "check")
    assert result.exit_code == 2
    assert "monitor.signals.age.max_days: found 0" in result.stderr


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"a: [", b""])
def test_an_unreadable_parameter_file_is_2(tmp_path: Path, content: bytes | None):
    if content is not None:
        (tmp_path / "p.yaml").write_bytes(content)
    result = call("params", "check", "p.yaml")
    assert result.exit_code == 2
    assert "p.yaml" in result.stderr


def test_bundle_verify_describes_the_bundle(tiny: Path):
    result = call("bundle", "verify", str(tiny))
    assert result.exit_code == 0
    for part in ("fine", "1.2.3", "negative, neutral, positive", "dtype:     float32", "kB", "d" * 64):
        assert part in result.stdout


def test_bundle_verify_names_a_changed_file(tiny: Path, tmp_path: Path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "model.onnx").open("ab") as file:
        file.write(b"!")
    result = call("bundle", "verify", str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "model.onnx: changed" in result.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ["negative", "positive"]}, "model.onnx: its outputs are"),
        ({"embedding_size": 5}, "model.onnx: its outputs are"),
        ({"cleaning": CleaningRules(version=VERSION + 1, public_handles=[])}, "made with cleaning rules"),
    ],
)
def test_bundle_verify_refuses_what_predict_refuses(tiny: Path, tmp_path: Path, changes: dict, message: str):
    for name in ("model.onnx", "tokenizer.json"):
        (tmp_path / name).write_bytes((tiny / name).read_bytes())
    Bundle.write(tmp_path, MANIFEST.model_copy(update=changes))
    for command in (["bundle", "verify", str(tmp_path)], ["predict", "good", "--bundle", str(tmp_path)]):
        result = call(*command)
        assert (result.exit_code, result.stdout) == (1, "")
        assert message in result.stderr


@pytest.mark.parametrize(
    ("flush_result", "code", "message"),
    [
        (tracking.FlushResult(3, 0), 0, ""),
        (
            tracking.FlushResult(1, 2, "no connection to http://me:hush@tracking:5000"),
            1,
            "http://***@tracking:5000",
        ),
    ],
)
def test_runs_send(monkeypatch: pytest.MonkeyPatch, flush_result: tracking.FlushResult, code: int, message: str):
    monkeypatch.setattr(tracking, "flush", lambda _settings: flush_result)
    result = call("runs", "send")
    assert result.exit_code == code
    assert result.stdout == f"{flush_result.sent} sent, {flush_result.kept} kept\n"
    assert message in result.stderr
    assert "hush" not in result.output


# All commands


def test_version():
    assert call("--version").stdout == f"evergreen {evergreen.__version__}\n"


def test_verbose_overrides_the_log_level(monkeypatch: pytest.MonkeyPatch):
    levels: list[str] = []
    monkeypatch.setattr(cli.logs, "configure", levels.append)
    call("-v", "params", "check")
    call("params", "check")
    assert levels == ["info", "warning"]


def test_unknown_exceptions_pass(monkeypatch: pytest.MonkeyPatch):
    def broken(settings: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tracking, "flush", broken)
    assert isinstance(call("runs", "send").exception, ZeroDivisionError)


def list_commands(command, path: tuple[str, ...] = ()):
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from list_commands(inner, (*path, name))


@pytest.mark.parametrize("path", list_commands(get_command(cli.app)), ids=" ".join)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help_ends_with_an_example_of_the_command(path: tuple[str, ...], option: str):
    result = call(*path, option)
    assert result.exit_code == 0
    last = [line.strip() for line in result.stdout.splitlines() if line.strip()][-1]
    assert last.startswith("Example:")
    assert " ".join(["evergreen", *path]) in last


@pytest.mark.parametrize("option", [("--port", "80"), ("--host", "1.2.3.4"), ("--workers", "0")])
def test_wrong_option_of_serve_is_named_as_it_was_given(option: tuple[str, str]):
    result = call("serve", *option)
    assert result.exit_code == 2
    assert f"Invalid value for '{option[0]}'" in result.stderr


def test_help_explains_the_exit_codes():
    shown = " ".join(call("--help").stdout.split())
    assert "Exit codes: 0 fine · 1 the work failed" in shown
    assert "2 wrong usage or parameters" in shown


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_importing_the_command_line_is_light():
    heavy = ["torch", "transformers", "mlflow", "pandas", "matplotlib", "datasets", "onnxruntime", "numpy", "dvc"]
    code = f"import sys, evergreen.cli; print([name for name in {heavy} if name in sys.modules])"
    assert run_python(code) == "[]\n"


def test_help_of_a_command_is_light():
    code = """
import sys
import time
from evergreen.cli import app
try:
    app(["predict", "-h"])
finally:
    print([name for name in ("onnxruntime", "numpy", "tokenizers") if name in sys.modules])
"""
    assert run_python(code).endswith("[]\n")


def test_importing_the_package_is_light():
    code = "import sys, evergreen; print([name for name in ('onnxruntime', 'numpy') if name in sys.modules])"
    assert run_python(code) == "[]\n"


def test_package_exports(tiny: Path):
    code = f"""
from evergreen import Bundle, Classifier, Prediction
classifier = Classifier.load({str(tiny)!r})
assert isinstance(classifier("good"), Prediction)
assert Bundle.load({str(tiny)!r}).manifest == classifier.manifest
print(classifier("good").label)
"""
    assert run_python(code) == "positive\n"


def test_package_has_no_other_name():
    with pytest.raises(AttributeError, match="no attribute 'Clasifier'"):
        evergreen.Clasifier  # noqa: B018


def test_output_and_error_of_a_process(tiny: Path):
    program = [sys.executable, "-c", "from evergreen.cli import main; main()"]
    command = [*program, "predict", "--file", "-", "--bundle", str(tiny)]
    environment = os.environ | {"PYTHONUTF8": "1"}
    done = subprocess.run(command, input=b"good\nbad\n\xff\n", capture_output=True, env=environment, check=False)
    assert done.returncode == 1
    assert get_labels(done.stdout.decode()) == ["positive", "negative"]
    assert done.stderr.decode().splitlines() == ["error: standard input, line 3: not UTF-8. Save the file as UTF-8."]


@contextmanager
def start_predict(bundle: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`evergreen predict --file -` with pipes to write to and read from."""
    program = [sys.executable, "-c", "from evergreen.cli import main; main()"]
    command = [*program, "predict", "--file", "-", "--bundle", str(bundle)]
    with subprocess.Popen(command, stdin=PIPE, stdout=PIPE, stderr=PIPE, bufsize=0) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process: subprocess.Popen[bytes], line: bytes) -> str:
    process.stdin.write(line)
    assert select.select([process.stdout], [], [], 60)[0], "no answer within a minute"
    return get_labels(process.stdout.readline().decode())[0]


def wait_for_the_next_read(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process waits: Python takes a signal that comes right before a read when that has ended."""
    for _ in range(200):
        if psutil.Process(process.pid).status() == psutil.STATUS_SLEEPING:
            return
        time.sleep(0.01)


def test_predict_answers_each_line_while_the_pipe_stays_open(tiny: Path):
    with start_predict(tiny) as process:
        assert ask(process, b"good\n") == "positive"
        assert ask(process, b"bad\r\n") == "negative"
        assert ask(process, b"\n") == "neutral"
        process.stdin.write(b"go")
        process.stdin.write(b"od")  # the last line has no end
        out, err = process.communicate(timeout=60)
        assert (get_labels(out.decode()), err, process.returncode) == (["positive"], b"", 0)


def test_predict_reports_a_line_that_is_not_utf8_at_once(tiny: Path):
    with start_predict(tiny) as process:
        assert ask(process, b"good\n") == "positive"
        process.stdin.write(b"bad\n\xff\n")
        assert get_labels(process.stdout.readline().decode()) == ["negative"]
        assert process.wait(60) == 1  # though more may come
        assert process.stderr.read() == b"error: standard input, line 3: not UTF-8. Save the file as UTF-8.\n"


def test_predict_ends_quietly_when_nobody_reads_on(tiny: Path):
    with start_predict(tiny) as process:
        assert ask(process, b"good\n") == "positive"
        process.stdout.close()
        process.stdin.write(b"bad\n")
        process.wait(60)
        assert process.stderr.read() == b""


def test_predict_ends_quietly_when_it_is_interrupted(tiny: Path):
    with start_predict(tiny) as process:
        assert ask(process, b"good\n") == "positive"
        wait_for_the_next_read(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stdout.read() + process.stderr.read() == b""
