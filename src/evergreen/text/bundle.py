"""The bundle: `model.onnx`, `tokenizer.json` and `bundle.json`, verified byte by byte on load."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evergreen.errors import EvergreenError

FORMAT = 2
"""Raised when a reader of the old format could not use the new one."""
MANIFEST, MODEL, TOKENIZER = "bundle.json", "model.onnx", "tokenizer.json"
_REMEDY = "Fetch the bundle again (dvc pull) or make it (dvc repro)."


class BundleError(EvergreenError):
    """A bundle is refused; the message names the file and the remedy."""


class CleaningRules(BaseModel):
    """The cleaning that the model was trained on."""

    version: int
    public_handles: list[str]


class Manifest(BaseModel):
    """What `bundle.json` holds beside the digest over itself."""

    model_config = ConfigDict(extra="ignore")

    format: int = FORMAT
    name: str = "text"
    version: str
    labels: list[str] = Field(min_length=2)
    max_length: int = Field(ge=8)
    """Tokens of a text that are read."""
    temperature: float = Field(gt=0)
    """Logits are divided by it before softmax (Guo et al., 2017)."""
    cleaning: CleaningRules
    data_hash: str
    """SHA-256 over the training, validation and test files."""
    weights_hash: str
    """SHA-256 of the torch weights that the model was exported from."""
    trained_at: str
    data_cutoff: str
    """Newest observation trained on; what came later is new to this model."""
    train_topics: list[str]
    train_samples: int
    """How many texts were trained on, per epoch; with a warm start fewer than the split holds."""
    embedding_size: int
    dtype: str
    run: str
    """Identifies the tracked run."""
    sha256: dict[str, str] = {}
    """Of each other file of the bundle."""


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on disk."""

    folder: Path
    manifest: Manifest

    @classmethod
    def write(cls, folder: Path, manifest: Manifest) -> Self:
        """Write the manifest, with the hashes of the files beside it and the digest over itself."""
        files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
        sealed = manifest.model_copy(update={"sha256": {path.name: hash_files(path) for path in files}})
        fields = sealed.model_dump(mode="json")
        (folder / MANIFEST).write_bytes(_serialize(fields | {"digest": _digest(fields)}))
        return cls(folder, sealed)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read the manifest and check every file against it.

        Raises:
            BundleError: for a missing or changed file, or a newer format.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder / MANIFEST)
        for required in (MODEL, TOKENIZER):
            if required not in manifest.sha256:
                raise BundleError(f"{folder / MANIFEST}: names no {required}. {_REMEDY}")
        for name, expected in manifest.sha256.items():
            if Path(name).name != name:
                raise BundleError(f"{folder / MANIFEST}: {name!r} is not a file name. {_REMEDY}")
            file = folder / name
            if not file.is_file():
                raise BundleError(f"{file}: missing. {_REMEDY}")
            if hash_files(file) != expected:
                raise BundleError(f"{file}: changed since the bundle was made. {_REMEDY}")
        return cls(folder, manifest)

    @property
    def size_bytes(self) -> int:
        """Bytes of all its files."""
        return sum((self.folder / name).stat().st_size for name in [*self.manifest.sha256, MANIFEST])


def hash_files(*paths: Path) -> str:
    """Hash files with SHA-256, one after the other, as lower-case hexadecimal."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_manifest(path: Path) -> Manifest:
    if not path.is_file():
        raise BundleError(f"{path}: missing. {_REMEDY}")
    content = path.read_bytes()
    try:
        fields = json.loads(content)
        version = fields.get("format")
    except (ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path}: not a manifest ({error}). {_REMEDY}") from error
    if isinstance(version, int) and version > FORMAT:
        raise BundleError(f"{path}: format {version} is newer than this program reads ({FORMAT}). Update evergreen.")
    if isinstance(version, int) and version < FORMAT:
        raise BundleError(f"{path}: format {version} is no longer read ({FORMAT} is). Make the bundle again.")
    digest = fields.pop("digest", None)
    # Byte by byte: written in any other way than here, it is not what was signed off.
    if digest != _digest(fields) or content != _serialize(fields | {"digest": digest}):
        raise BundleError(f"{path}: changed since the bundle was made. {_REMEDY}")
    try:
        return Manifest.model_validate(fields)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise BundleError(f"{path}: not a manifest (wrong: {wrong}). {_REMEDY}") from error


def _serialize(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, indent=2) + "\n").encode()


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(_serialize(fields)).hexdigest()
