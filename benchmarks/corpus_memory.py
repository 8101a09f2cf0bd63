"""Peak memory and speed of preprocessing, for corpora of growing size.

A generated CSV of random words, a tenth of them duplicates, is prepared in a process of its own:
python benchmarks/corpus_memory.py [--rows 100000 1000000 10000000]
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from record import save_result

RESULT = Path("benchmarks/results/corpus_memory.json")
SCRATCH = Path(".evergreen")
"""On a disk, which a folder for temporary files need not be, and ignored by Git."""


def generate(path: Path, rows: int) -> None:
    """Write a corpus of `rows` texts of 8 to 20 words."""
    rng = random.Random(0)  # noqa: S311 - not a secret
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(20_000)]
    recent = ["first text of all"]
    with path.open("w") as file:
        file.write("text,label,observed_at,topic\n")
        for _ in range(rows):
            text = rng.choice(recent) if rng.random() < 0.1 else " ".join(rng.choices(words, k=rng.randint(8, 20)))
            recent = [*recent[-99:], text]
            file.write(f"@{rng.choice(words)} {text},{rng.choice(('no', 'yes'))},2026-01-01T00:00:00Z,all\n")


def measure(path: Path) -> dict[str, float]:
    """Prepare one corpus in this process."""
    from evergreen.params import DataParams, Params  # noqa: PLC0415 - the parent process measures nothing
    from evergreen.text.corpus import prepare  # noqa: PLC0415

    columns = {"text": "text", "label": "label", "observed_at": "observed_at", "topic": "topic"}
    changes = {"corpora": [str(path)], "encoding": "utf-8", "columns": columns, "labels": ["no", "yes"], "topics": []}
    data = Params.load().model_dump(mode="json")["data"] | changes | {"train_topics": ["all"]}
    started = time.monotonic()
    stats = prepare(DataParams.model_validate(data), path.parent / "out")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.monotonic() - started
    return {"rows": stats.rows, "seconds": seconds, "peak_memory_mb": peak, "duplicates": stats.duplicates}


def main() -> None:
    """Measure each size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--only", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        print(json.dumps(measure(args.only)))
        return
    table = []
    for rows in args.rows:
        SCRATCH.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=SCRATCH) as scratch:
            path = Path(scratch) / "corpus.csv"
            generate(path, rows)
            command = [sys.executable, __file__, "--only", str(path)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            table.append({**json.loads(done.stdout.splitlines()[-1]), "file_mb": path.stat().st_size / 1e6})
        print(table[-1], flush=True)
    save_result(RESULT, ("pandas", "pyarrow", "pandera"), table=table)


if __name__ == "__main__":
    main()
