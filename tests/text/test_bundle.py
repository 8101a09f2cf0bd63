"""The bundle: whole, it is read; anything else is refused with the file named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evergreen.text import bundle
from evergreen.text.runtime import Classifier

FILES = ["model.onnx", "tokenizer.json"]


@pytest.fixture
def folder(int8_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(int8_folder, tmp_path / "bundle"))


@pytest.fixture
def edit(folder: Path) -> Callable[..., None]:
    def change(**fields: Any) -> None:
        path = folder / "bundle.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def test_a_whole_bundle_gives_its_manifest(folder: Path) -> None:
    manifest = bundle.verify(folder)
    assert manifest.labels == ["negative", "neutral", "positive"]
    assert sorted(manifest.sha256) == FILES
    assert manifest.sha256["model.onnx"] == bundle.sha256(folder / "model.onnx")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("place", [0, -1])
def test_one_changed_byte_is_seen(folder: Path, name: str, place: int) -> None:
    content = bytearray((folder / name).read_bytes())
    content[place] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(bundle.BundleError, match=rf"{name}: changed"):
        bundle.verify(folder)


@pytest.mark.parametrize("name", [*FILES, "bundle.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(bundle.BundleError, match=rf"{name}: missing"):
        bundle.verify(folder)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(bundle.BundleError, match=r"nowhere/bundle\.json: missing"):
        bundle.verify(tmp_path / "nowhere")


def test_a_newer_format_asks_for_an_update_whatever_else_it_holds(folder: Path) -> None:
    (folder / "bundle.json").write_text(json.dumps({"format": bundle.FORMAT + 1, "all": "new"}))
    with pytest.raises(bundle.BundleError, match=r"bundle\.json: format 2 is newer.*Update evergreen"):
        bundle.verify(folder)


def test_an_old_format_is_refused(folder: Path, edit: Callable[..., None]) -> None:
    edit(format=0)
    with pytest.raises(bundle.BundleError, match=r"bundle\.json: format 0 is no longer read"):
        bundle.verify(folder)


@pytest.mark.parametrize("name", ["../x", "/etc/hostname", "a/b", "..", "", "."])
def test_names_that_leave_the_folder_are_refused(folder: Path, edit: Callable[..., None], name: str) -> None:
    (folder.parent / "x").write_text("outside")
    hashes = bundle.verify(folder).sha256
    edit(sha256=hashes | {name: bundle.sha256(folder.parent / "x")})
    with pytest.raises(bundle.BundleError):
        bundle.verify(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_must_name_the_model_and_the_tokenizer(folder: Path, edit: Callable[..., None], name: str) -> None:
    hashes = bundle.verify(folder).sha256
    del hashes[name]
    edit(sha256=hashes)
    with pytest.raises(bundle.BundleError, match=f"names no {name}"):
        bundle.verify(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"{}", b"[" * 99_999])
def test_a_manifest_of_garbage_is_named(folder: Path, content: bytes) -> None:
    (folder / "bundle.json").write_bytes(content)
    with pytest.raises(bundle.BundleError, match=r"bundle\.json: not a manifest"):
        bundle.verify(folder)


@pytest.mark.parametrize(
    "fields",
    [{"temperature": 0}, {"temperature": float("nan")}, {"max_tokens": 0}, {"labels": None}, {"format": "one"}],
)
def test_wrong_fields_are_refused(folder: Path, edit: Callable[..., None], fields: dict[str, Any]) -> None:
    edit(**fields)
    with pytest.raises(bundle.BundleError, match=r"bundle\.json: not a manifest \(1 wrong field"):
        bundle.verify(folder)


def test_unknown_fields_of_the_same_format_are_let_pass(folder: Path, edit: Callable[..., None]) -> None:
    edit(remark="added later")
    assert bundle.verify(folder).version == "0.1.0"


def test_other_cleaning_rules_are_refused(folder: Path, edit: Callable[..., None]) -> None:
    edit(cleaning={"version": 999, "public_handles": []})
    bundle.verify(folder)
    with pytest.raises(bundle.BundleError, match="made with cleaning rules 999"):
        Classifier(folder)


def test_hash_goes_over_files_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * (1 << 20) + b"y")
    (tmp_path / "b").write_bytes(b"z")
    one, other = (bundle.sha256(*(tmp_path / n for n in order)) for order in ("ab", "ba"))
    assert one != other
    (tmp_path / "b").write_bytes(b"Z")
    assert bundle.sha256(tmp_path / "a", tmp_path / "b") != one
