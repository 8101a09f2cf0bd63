"""The bundle: whole, it is read; anything else is refused with the file named."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evergreen import bundle
from evergreen.bundle import BundleError, hash_files
from evergreen.text.bundle import FORMAT, Bundle
from evergreen.text.runtime import Classifier

FILES = ["model.onnx", "tokenizer.json"]


@pytest.fixture
def folder(int8_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8_folder, tmp_path / "bundle"))


def read(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    return fields


def forge(folder: Path, **changes: Any) -> None:
    """Change fields as somebody would who writes a right digest."""
    fields = read(folder) | changes
    del fields["digest"]
    (folder / "bundle.json").write_bytes(bundle.serialize(fields | {"digest": bundle.compute_digest(fields)}))


def test_a_whole_bundle_gives_its_manifest(folder: Path) -> None:
    loaded = Bundle.load(folder)
    assert loaded.manifest.labels == ["negative", "neutral", "positive"]
    assert sorted(loaded.manifest.sha256) == FILES
    assert loaded.manifest.sha256["model.onnx"] == hash_files(folder / "model.onnx")
    assert loaded.size_bytes == sum(file.stat().st_size for file in folder.iterdir())


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([*FILES, "bundle.json"]), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_any_changed_byte_is_seen(folder: Path, name: str, position: float, change: int) -> None:
    original = (folder / name).read_bytes()
    content = bytearray(original)
    content[int(position * len(content))] ^= change
    try:
        (folder / name).write_bytes(content)
        with pytest.raises(BundleError, match=name):
            Bundle.load(folder)
    finally:
        (folder / name).write_bytes(original)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["positive", "neutral", "negative"]},
        {"labels": ["negative", "neutral"]},
        {"temperature": 0.01},
        {"remark": "added"},
        {"digest": None},
    ],
)
def test_a_changed_manifest_is_seen(folder: Path, change: dict[str, Any]) -> None:
    (folder / "bundle.json").write_text(json.dumps(read(folder) | change, indent=2) + "\n")
    with pytest.raises(BundleError, match=r"bundle\.json: changed"):
        Bundle.load(folder)


def test_the_same_manifest_written_otherwise_is_seen(folder: Path) -> None:
    (folder / "bundle.json").write_text(json.dumps(read(folder)))
    with pytest.raises(BundleError, match=r"bundle\.json: changed"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", [*FILES, "bundle.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(BundleError, match=rf"{name}: missing"):
        Bundle.load(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"nowhere/bundle\.json: missing"):
        Bundle.load(tmp_path / "nowhere")


def test_a_newer_format_asks_for_an_update_whatever_else_it_holds(folder: Path) -> None:
    (folder / "bundle.json").write_text(json.dumps({"format": FORMAT + 1, "all": "new"}))
    with pytest.raises(BundleError, match=rf"bundle\.json: format {FORMAT + 1} is newer.*Update evergreen"):
        Bundle.load(folder)


def test_an_old_format_is_refused(folder: Path) -> None:
    (folder / "bundle.json").write_text(json.dumps({"format": FORMAT - 1, "max_tokens": 96}))
    with pytest.raises(BundleError, match=rf"bundle\.json: format {FORMAT - 1} is no longer read"):
        Bundle.load(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a/b", "..", "", "."])
def test_names_that_leave_the_folder_are_refused(folder: Path, name: str) -> None:
    (folder.parent / "x").write_text("outside")
    forge(folder, sha256=read(folder)["sha256"] | {name: hash_files(folder.parent / "x")})
    with pytest.raises(BundleError):
        Bundle.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_must_name_the_model_and_the_tokenizer(folder: Path, name: str) -> None:
    hashes = read(folder)["sha256"]
    del hashes[name]
    forge(folder, sha256=hashes)
    with pytest.raises(BundleError, match=f"names no {name}"):
        Bundle.load(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"{}", b"[" * 99_999])
def test_a_manifest_of_garbage_is_named(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"bundle\.json: (not a manifest|changed)"):
        Bundle.load(folder)


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0}, {"temperature": float("nan")}, {"max_length": 0}, {"labels": None}, {"format": "two"}],
)
def test_wrong_fields_are_refused(folder: Path, fields: dict[str, Any]) -> None:
    forge(folder, **fields)
    with pytest.raises(BundleError, match=rf"bundle\.json: not a manifest \(wrong: {next(iter(fields))}"):
        Bundle.load(folder)


def test_later_fields_of_the_same_format_are_ignored(folder: Path) -> None:
    forge(folder, remark="added later")
    assert Bundle.load(folder).manifest.version == "0.1.0"


def test_other_cleaning_rules_are_refused(folder: Path) -> None:
    forge(folder, cleaning={"version": 999, "public_handles": []})
    Bundle.load(folder)
    with pytest.raises(BundleError, match="made with cleaning rules 999"):
        Classifier.load(folder)


@pytest.mark.parametrize("change", [{"labels": ["negative", "positive"]}, {"embedding_size": 33}])
def test_a_manifest_that_does_not_fit_the_graph_is_refused(folder: Path, change: dict[str, Any]) -> None:
    forge(folder, **change)
    with pytest.raises(BundleError, match=r"model\.onnx: its outputs are .*'logits': 3"):
        Classifier.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_no_model_or_tokenizer_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{}")
    forge(folder, sha256=read(folder)["sha256"] | {name: hash_files(folder / name)})
    with pytest.raises(BundleError, match=f"{name}: not a (model|tokenizer)"):
        Classifier.load(folder)


def test_hash_goes_over_files_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (1 << 20) + b"y")
    (tmp_path / "b").write_bytes(b"z")
    one, other = (hash_files(*(tmp_path / n for n in order)) for order in ("ab", "ba"))
    assert one != other
    (tmp_path / "b").write_bytes(b"Z")
    assert hash_files(tmp_path / "a", tmp_path / "b") != one
