"""What bundles have in common: files and a `bundle.json` that seals them, verified byte by byte on load."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from evergreen.errors import EvergreenError

MANIFEST = "bundle.json"
_REMEDY = "Fetch the bundle again (dvc pull) or make it (dvc repro)."


class BundleError(EvergreenError):
    """A bundle is refused; the message names the file and the remedy."""


class BaseManifest(BaseModel):
    """What every `bundle.json` holds beside the digest over itself."""

    model_config = ConfigDict(extra="ignore")

    format: int
    """Raised when a reader of the old format could not use the new one."""
    name: str
    version: str
    data_hash: str
    """SHA-256 over what the model was trained and tested on."""
    trained_at: str
    run: str
    """Identifies the tracked run."""
    sha256: dict[str, str] = {}
    """Of each other file of the bundle."""

    @property
    def identity(self) -> str:
        """Name, version and run: how answers and the prediction log name the bundle."""
        return f"{self.name} {self.version} {self.run[:12]}"


M = TypeVar("M", bound=BaseManifest)


@dataclass(frozen=True)
class BaseBundle(Generic[M]):
    """A verified bundle on disk. A subclass names its manifest's class and the files that it can't do without."""

    folder: Path
    manifest: M

    manifest_class: ClassVar[type[BaseManifest]]
    required_files: ClassVar[tuple[str, ...]]

    @classmethod
    def write(cls, folder: Path, manifest: M) -> Self:
        """Write the manifest, with the hashes of the files beside it and the digest over itself."""
        files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
        sealed = manifest.model_copy(update={"sha256": {path.name: hash_files(path) for path in files}})
        fields = sealed.model_dump(mode="json")
        (folder / MANIFEST).write_bytes(serialize(fields | {"digest": compute_digest(fields)}))
        return cls(folder, sealed)

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Read the manifest and check every file against it.

        Raises:
            BundleError: for a missing or changed file, or another format.
        """
        folder = Path(folder)
        manifest = _read_manifest(folder / MANIFEST, cls.manifest_class)
        for required in cls.required_files:
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
        return cls(folder, cast(M, manifest))

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


def hash_folder(folder: Path) -> str:
    """Hash all files below a folder with SHA-256, their paths in it as well as their contents."""
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\n{hash_files(file)}\n".encode())
    return digest.hexdigest()


def serialize(fields: dict[str, Any]) -> bytes:
    """Write a manifest's fields as they stand in `bundle.json`."""
    return (json.dumps(fields, indent=2) + "\n").encode()


def compute_digest(fields: dict[str, Any]) -> str:
    """Hash a manifest's fields, `digest` left out."""
    return hashlib.sha256(serialize(fields)).hexdigest()


def _read_manifest(path: Path, manifest_class: type[BaseManifest]) -> BaseManifest:
    if not path.is_file():
        raise BundleError(f"{path}: missing. {_REMEDY}")
    content = path.read_bytes()
    try:
        fields = json.loads(content)
        version, name = fields.get("format"), fields.get("name")
    except (ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path}: not a manifest ({error}). {_REMEDY}") from error
    expected_name, current = (manifest_class.model_fields[field].default for field in ("name", "format"))
    if isinstance(name, str) and name != expected_name:
        raise BundleError(f"{path}: a {name} bundle, not a {expected_name} one. Name the other folder.")
    if isinstance(version, int) and version > current:
        raise BundleError(f"{path}: format {version} is newer than this program reads ({current}). Update evergreen.")
    if isinstance(version, int) and version < current:
        raise BundleError(f"{path}: format {version} is no longer read ({current} is). Make the bundle again.")
    digest = fields.pop("digest", None)
    # Byte by byte: written in any other way than here, it is not what was signed off.
    if digest != compute_digest(fields) or content != serialize(fields | {"digest": digest}):
        raise BundleError(f"{path}: changed since the bundle was made. {_REMEDY}")
    try:
        return manifest_class.model_validate(fields)
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, problem["loc"])) for problem in error.errors())
        raise BundleError(f"{path}: not a manifest (wrong: {wrong}). {_REMEDY}") from error
