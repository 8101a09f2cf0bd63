"""The bundle: `model.onnx`, `tokenizer.json` and `bundle.json`, verified byte by byte on load."""

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

FORMAT = 1
"""Raised when a reader of the old format could not use the new one."""
MANIFEST = "bundle.json"


class BundleError(Exception):
    """A bundle is refused; the message names the file and the remedy."""


class ExportError(BundleError):
    """The bundle does not agree with the model that it was made from."""


class Cleaning(BaseModel):
    """The cleaning that the model was trained on."""

    version: int
    public_handles: list[str]


class Manifest(BaseModel):
    """What `bundle.json` holds."""

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    name: str = "text"
    version: str
    labels: list[str]
    max_tokens: int = Field(ge=8)
    temperature: float = Field(gt=0)
    """Logits are divided by it before softmax (Guo et al., 2017)."""
    cleaning: Cleaning
    data_hash: str
    """SHA-256 over the training, validation and test files."""
    weights_hash: str
    """SHA-256 of the torch weights that the model was exported from."""
    trained_at: str
    trained_until: str
    """Newest observation trained on; what came later is new to this model."""
    trained_on: list[str]
    embedding_size: int
    precision: str
    run: str
    """Identifies the tracked run."""
    sha256: dict[str, str]
    """Of each other file of the bundle."""


def sha256(*paths: Path) -> str:
    """Hash files, one after the other, as lower-case hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def size(folder: Path) -> int:
    """Bytes of all files of a bundle."""
    return sum(file.stat().st_size for file in folder.iterdir())


def write(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, with the hashes of the files beside it."""
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    sealed = manifest.model_copy(update={"sha256": {path.name: sha256(path) for path in files}})
    (folder / MANIFEST).write_text(sealed.model_dump_json(indent=2) + "\n", encoding="utf-8")


def verify(folder: Path) -> Manifest:
    """Read the manifest and check every file against it.

    Raises:
        BundleError: for a missing or changed file, a newer format or other cleaning rules.
    """
    path = folder / MANIFEST
    remedy = "Fetch the bundle again (dvc pull) or make it (dvc repro)."
    if not path.is_file():
        raise BundleError(f"{path}: missing. {remedy}")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = raw.get("format")
        if isinstance(found, int) and found > FORMAT:
            raise BundleError(f"{path}: format {found} is newer than this program reads ({FORMAT}). Update evergreen.")
        manifest = Manifest.model_validate(raw)
    except (ValueError, AttributeError, RecursionError) as error:
        detail = f"{error.error_count()} wrong fields" if isinstance(error, ValidationError) else str(error)
        raise BundleError(f"{path}: not a manifest ({detail}). {remedy}") from error
    if manifest.format != FORMAT:
        raise BundleError(f"{path}: format {manifest.format} is no longer read ({FORMAT} is). Make the bundle again.")
    for required in ("model.onnx", "tokenizer.json"):
        if required not in manifest.sha256:
            raise BundleError(f"{path}: names no {required}. {remedy}")
    for name, expected in manifest.sha256.items():
        if Path(name).name != name:
            raise BundleError(f"{path}: {name!r} is not a file name. {remedy}")
        file = folder / name
        if not file.is_file():
            raise BundleError(f"{file}: missing. {remedy}")
        if sha256(file) != expected:
            raise BundleError(f"{file}: changed since the bundle was made. {remedy}")
    return manifest
