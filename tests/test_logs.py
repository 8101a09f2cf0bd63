import json
import sys

import pytest
import structlog

from evergreen import logs


@pytest.fixture(autouse=True)
def _fresh():
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def lines(capsys) -> list[dict[str, object]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_logs_are_json_lines_on_standard_error_when_it_is_no_terminal(capsys):
    logs.configure("info")
    logs.get("evergreen.here").info("done", rows=3)
    (line,) = lines(capsys)
    assert line["event"] == "done"
    assert line["rows"] == 3
    assert line["module"] == "evergreen.here"
    assert line["level"] == "info"
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.parametrize("configured", [True, False])
def test_logs_are_quiet_by_default(capsys, configured):
    if configured:
        logs.configure()
    log = logs.get("quiet")
    log.debug("nothing")
    log.info("nothing")
    log.warning("something")
    assert [line["event"] for line in lines(capsys)] == ["something"]


def test_a_terminal_gets_lines_for_people(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure("info")
    logs.get("x").info("done", rows=3)
    shown = capsys.readouterr().err
    assert "done" in shown
    assert not shown.startswith("{")


@pytest.mark.parametrize("pretty", [True, False])
@pytest.mark.parametrize(
    "fields",
    [
        {"text": "s3cr3t"},
        {"TOKEN": "s3cr3t"},
        {"texts": ["s3cr3t"]},
        {"hf_token": "s3cr3t"},
        {"aws_secret_access_key": "s3cr3t"},
        {"row": {"text": "s3cr3t", "label": "neutral"}},
        {"rows": [{"text": "s3cr3t"}]},
    ],
)
def test_texts_and_secrets_never_appear(capsys, monkeypatch, pretty, fields):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: pretty)
    logs.configure("debug")
    logs.get("x").error("refused", **fields)
    shown = capsys.readouterr().err
    assert "refused" in shown
    assert "(hidden)" in shown
    assert "s3cr3t" not in shown


def test_harmless_fields_stay(capsys):
    logs.configure("info")
    logs.get("x").info("read", tokens=12, text_length=3, path="a.csv", sizes=[1, 2])
    (line,) = lines(capsys)
    assert (line["tokens"], line["text_length"], line["path"], line["sizes"]) == (12, 3, "a.csv", [1, 2])
