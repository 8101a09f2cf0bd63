"""Logs: their form and level, and that no text and no secret is in them."""

import json
import logging
import sys
import warnings

import pytest
import structlog

from evergreen import logs

ADDRESS = "http://me:hush@tracking:5000"


@pytest.fixture(autouse=True)
def _fresh():
    structlog.reset_defaults()


def lines(capsys) -> list[dict[str, object]]:
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


def test_logs_are_json_lines_outside_of_a_terminal(capsys):
    logs.configure("info")
    logs.get_logger("evergreen.here").info("done", rows=3)
    (line,) = lines(capsys)
    assert line["event"] == "done"
    assert line["rows"] == 3
    assert line["module"] == "evergreen.here"
    assert line["level"] == "info"
    assert str(line["timestamp"]).endswith("Z")


@pytest.mark.parametrize("configured", [True, False])
def test_default_level_is_warning(capsys, configured):
    if configured:
        logs.configure()
    log = logs.get_logger("quiet")
    log.debug("nothing")
    log.info("nothing")
    log.warning("something")
    assert [line["event"] for line in lines(capsys)] == ["something"]


def test_level_applies_to_libraries(capsys):
    for level, events in (("warning", ["something"]), ("INFO", ["progress", "something"])):
        logs.configure(level)
        logging.getLogger("library").info("progress")
        logging.getLogger("library").warning("something")
        assert [line["event"] for line in lines(capsys)] == events


def test_library_messages_are_json_lines(capsys):
    logs.configure()
    logging.getLogger("library.part").warning("%d of %d\nfailed", 1, 2)
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["logger"]) == ("1 of 2\nfailed", "warning", "library.part")


def test_terminal_gets_readable_lines(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure("info")
    logs.get_logger("x").info("done", rows=3)
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
def test_texts_and_secrets_are_hidden(capsys, monkeypatch, pretty, fields):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: pretty)
    logs.configure("debug")
    logs.get_logger("x").error("refused", **fields)
    shown = capsys.readouterr().err
    assert "refused" in shown
    assert "(hidden)" in shown
    assert "s3cr3t" not in shown


def test_harmless_fields_stay(capsys):
    logs.configure("info")
    logs.get_logger("x").info("read", tokens=12, text_length=3, path="a.csv", sizes=[1, 2], ratio=0.5, best=None)
    (line,) = lines(capsys)
    assert (line["tokens"], line["text_length"], line["path"], line["sizes"]) == (12, 3, "a.csv", [1, 2])
    assert (line["ratio"], line["best"]) == (0.5, None)


# Passwords in addresses


def log_event():
    logs.get_logger("x").warning(f"unavailable: {ADDRESS}")


def log_value():
    logs.get_logger("x").warning("unavailable", uri=ADDRESS)


def log_nested_value():
    logs.get_logger("x").warning("unavailable", servers={"first": [{"uri": ADDRESS}], "second": (ADDRESS,)})


def log_object():
    logs.get_logger("x").warning("unavailable", error=OSError(ADDRESS), others={ADDRESS})


def log_exception():
    try:
        raise ConnectionError(ADDRESS)
    except ConnectionError:
        logs.get_logger("x").exception("unavailable")


def log_from_library():
    logging.getLogger("library").warning("unavailable: %s", ADDRESS)


def log_exception_from_library():
    try:
        raise ConnectionError(ADDRESS)
    except ConnectionError:
        logging.getLogger("library").exception("unavailable")


def warn():
    warnings.warn(f"unavailable: {ADDRESS}", UserWarning, stacklevel=1)


@pytest.mark.parametrize("pretty", [True, False])
@pytest.mark.parametrize(
    "log",
    [
        log_event,
        log_value,
        log_nested_value,
        log_object,
        log_exception,
        log_from_library,
        log_exception_from_library,
        warn,
    ],
)
def test_password_in_an_address_is_hidden(capsys, monkeypatch, pretty, log):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: pretty)
    logs.configure()
    log()
    shown = capsys.readouterr().err
    assert "unavailable" in shown
    assert "***@tracking:5000" in shown
    assert "hush" not in shown
    if not pretty:
        assert all(json.loads(line)["level"] for line in shown.splitlines())


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("http://me:hush@host:5000/a", "http://***@host:5000/a"),
        ("http://token@host", "http://***@host"),
        ("postgresql://me:p@ss/word@host/db", "postgresql://***@host/db"),
        ("see https://a:b@c and s3://k:s@bucket/x", "see https://***@c and s3://***@bucket/x"),
        ("https://h/f?X-Amz-Signature=abc&x=1&token=t", "https://h/f?X-Amz-Signature=***&x=1&token=***"),
        ("hf://datasets/org/name@main", "hf://datasets/org/name@main"),
        ("hf://model@main", "hf://model@main"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("s3://bucket/a@b", "s3://bucket/a@b"),
    ],
)
def test_redact(text: str, redacted: str):
    assert logs.redact(text) == redacted
