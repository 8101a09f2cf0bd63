import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from buckets import Bucket, run_s3_server
from tiny_text_bundle import LABELS, write_bundle
from typer.testing import CliRunner

from evergreen.bundle import BundleError
from evergreen.cli import app
from evergreen.serving.batch import BatchInterruptedError, run_batch
from evergreen.serving.batch_parts import BatchError, BatchUsageError, find_folder, lock
from evergreen.sources import SourceError
from evergreen.text.runtime import Classifier


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle")


def make_texts(count, seed=0):
    rng = random.Random(seed)  # noqa: S311 - no secret
    return [" ".join(f"word{rng.randrange(200)}" for _ in range(rng.randrange(1, 20))) for _ in range(count)]


def write_rows(path, count, every=97):
    """A file in which each `every`-th row is rejected."""
    lines = [json.dumps({"id": i, "text": text}) for i, text in enumerate(make_texts(count))]
    lines[5::every] = ["{broken"] * len(lines[5::every])
    path.write_text("\n".join(lines) + "\n")
    return path


def read_rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def start_cli(*arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", "from evergreen.cli import main; main()", *map(str, arguments)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_end(processes, seconds=10):
    """Wait until none of the processes runs; one that nobody waits for counts as ended."""
    _, running = psutil.wait_procs(processes, seconds)
    return not [p for p in running if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


# What it predicts


def test_rows_get_the_classifiers_answers(bundle, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", 500)
    calls = []
    result = run_batch(
        str(source),
        str(tmp_path / "out.jsonl"),
        bundle,
        processes=2,
        chunk_rows=64,
        on_chunk=lambda *chunk: calls.append(chunk),
    )
    rows, rejects = read_rows(tmp_path / "out.jsonl"), read_rows(tmp_path / "out.jsonl.rejects.jsonl")
    assert sorted([row["row"] for row in [*rows, *rejects]]) == list(range(500))
    assert [row["row"] for row in rows] == sorted(row["row"] for row in rows)
    assert [row["row"] for row in rejects] == [*range(5, 500, 97)]
    assert all(row["id"] == row["row"] for row in rows)
    expected = Classifier.load(bundle, 1).predict([row["text"] for row in rows])
    for row, prediction in zip(rows, expected, strict=True):
        assert row["label"] == prediction.label
        for label in LABELS:
            assert row[f"probability_{label}"] == pytest.approx(prediction.probabilities[label], abs=2e-6)
            assert row[f"probability_{label}"] == round(row[f"probability_{label}"], 6)
    assert (result.rows, result.predicted, result.rejected) == (500, len(rows), len(rejects))
    assert result.rejects == str(tmp_path / "out.jsonl.rejects.jsonl")
    assert [number for numbers, _, _ in calls for number in numbers] == [row["row"] for row in rows]
    assert [text for _, texts, _ in calls for text in texts] == [row["text"] for row in rows]
    assert [p.label for _, _, predictions in calls for p in predictions] == [row["label"] for row in rows]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl", "out.jsonl.rejects.jsonl"]


def test_texts_equal_after_cleaning_are_computed_once(bundle, tmp_path, monkeypatch):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    texts = ["@anna good  flight", "@bert good flight", "bad flight", "@carl good flight"]
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    result = run_batch(str(source), str(target), bundle, processes=1)
    assert result.duplicates_fraction == 0.5
    rows = read_rows(target)
    assert [row["text"] for row in rows] == texts
    assert rows[0]["probability_negative"] == rows[1]["probability_negative"] == rows[3]["probability_negative"]
    assert rows[0]["probability_negative"] != rows[2]["probability_negative"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_other_formats_hold_the_same(bundle, tmp_path, suffix):
    source = write_rows(tmp_path / "in.jsonl", 300)
    for target in ("out.jsonl", f"out.{suffix}"):
        run_batch(str(source), str(tmp_path / target), bundle, processes=1, chunk_rows=100)
    again = run_batch(str(tmp_path / f"out.{suffix}"), str(tmp_path / "again.jsonl"), bundle, processes=1)
    assert again.rejects is None
    rows, made = read_rows(tmp_path / "out.jsonl"), read_rows(tmp_path / "again.jsonl")
    for row, other in zip(rows, made, strict=True):
        for name in ("label", *(f"probability_{label}" for label in LABELS)):
            assert str(row[name]) == str(other[f"input_{name}"])


def test_report_of_an_earlier_run_is_removed(bundle, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", 20)
    run_batch(str(source), str(tmp_path / "out.csv"), bundle, processes=1)
    assert (tmp_path / "out.csv.rejects.jsonl").exists()
    source.write_text('{"text": "good"}\n')
    run_batch(str(source), str(tmp_path / "out.csv"), bundle, processes=1)
    assert not (tmp_path / "out.csv.rejects.jsonl").exists()


# Stopped and resumed


def stop_after(chunks, kind=KeyboardInterrupt):
    seen = []

    def on_chunk(*chunk):
        seen.append(chunk)
        if len(seen) > chunks:
            raise kind

    return on_chunk


def test_input_is_checked_before_the_model_is_loaded(tmp_path):
    with pytest.raises(SourceError, match=r"in\.csv: no such file"):
        run_batch(str(tmp_path / "in.csv"), str(tmp_path / "out.csv"), tmp_path / "no bundle")


def test_interrupted_run_is_resumed(bundle, tmp_path):
    source, target = write_rows(tmp_path / "in.jsonl", 400), tmp_path / "out.csv"
    run_batch(str(source), str(tmp_path / "whole.csv"), bundle, chunk_rows=50, processes=1)
    with pytest.raises(BatchInterruptedError, match="after 150 rows") as error:
        run_batch(str(source), str(target), bundle, chunk_rows=50, processes=1, on_chunk=stop_after(3))
    assert error.value.exit_code == 130
    assert not target.exists()
    progress = []
    result = run_batch(str(source), str(target), bundle, chunk_rows=50, processes=2, on_progress=progress.append)
    assert result.resumed_rows == progress[0].rows == 150
    assert [p.rows for p in progress] == [*range(150, 401, 50)]
    assert progress[-1].done == progress[-1].total == source.stat().st_size
    assert target.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert not find_folder(str(target)).exists()


def test_callback_that_fails_leaves_the_chunk_to_the_next_run(bundle, tmp_path):
    source, target = write_rows(tmp_path / "in.jsonl", 100), tmp_path / "out.jsonl"
    with pytest.raises(ZeroDivisionError):
        run_batch(
            str(source), str(target), bundle, chunk_rows=20, processes=1, on_chunk=stop_after(2, ZeroDivisionError)
        )
    firsts = []
    run_batch(
        str(source),
        str(target),
        bundle,
        chunk_rows=20,
        processes=1,
        on_chunk=lambda numbers, *_: firsts.append(numbers[0]),
    )
    assert firsts == [40, 60, 80]


@pytest.mark.parametrize("change", ["input", "chunk_rows", "bundle"])
def test_parts_of_another_job_are_refused(bundle, tmp_path, change):
    source, target = write_rows(tmp_path / "in.jsonl", 200), tmp_path / "out.jsonl"
    with pytest.raises(BatchInterruptedError):
        run_batch(str(source), str(target), bundle, chunk_rows=50, processes=1, on_chunk=stop_after(1))
    used, rows = bundle, 50
    if change == "input":
        write_rows(source, 210)
    elif change == "chunk_rows":
        rows = 60
    else:
        used = write_bundle(tmp_path / "other", seed=2)
    with pytest.raises(BatchError, match=f"unfinished job for .* with another {change}.*--restart"):
        run_batch(str(source), str(target), used, chunk_rows=rows, processes=1)
    result = run_batch(str(source), str(target), used, chunk_rows=rows, processes=1, restart=True)
    assert result.resumed_rows == 0
    assert result.rows == (210 if change == "input" else 200)


def test_input_that_changes_meanwhile_is_noticed(bundle, tmp_path):
    source = write_rows(tmp_path / "in.jsonl", 200)

    def touch(*_):
        os.utime(source, (1, 1))

    with pytest.raises(SourceError, match="changed while it was read"):
        run_batch(str(source), str(tmp_path / "out.jsonl"), bundle, chunk_rows=50, processes=1, on_chunk=touch)


def test_second_process_is_refused(bundle, tmp_path):
    source, target = write_rows(tmp_path / "in.jsonl", 20), str(tmp_path / "out.jsonl")
    with lock(find_folder(target), target), pytest.raises(BatchError, match="another process is making it"):
        run_batch(str(source), target, bundle)
    assert run_batch(str(source), target, bundle, processes=1).rows == 20


def kill_workers():
    for child in psutil.Process().children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()


def test_chunks_of_a_killed_worker_are_tried_again(bundle, tmp_path):
    source, target = write_rows(tmp_path / "in.jsonl", 400), tmp_path / "out.jsonl"
    run_batch(str(source), str(tmp_path / "whole.jsonl"), bundle, chunk_rows=20, processes=1)
    firsts = []

    def on_chunk(numbers, *_):
        firsts.append(numbers[0])
        if numbers[0] in (40, 200):
            kill_workers()

    run_batch(str(source), str(target), bundle, chunk_rows=20, processes=2, on_chunk=on_chunk)
    assert firsts == [*range(0, 400, 20)]
    assert target.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.timeout(120)
def test_stop_amid_long_answers_ends(bundle, tmp_path):
    lines = [json.dumps({"text": f"word{i} " * 3000}) for i in range(400)]
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("\n".join(lines))
    for number in range(6):
        with pytest.raises(BatchInterruptedError):
            run_batch(str(source), str(target), bundle, chunk_rows=20, processes=2, on_chunk=stop_after(2))
        assert len(list(tmp_path.glob("out.jsonl.batch/*.part"))) == 2 * (number + 1)


def test_worker_that_is_killed_again_is_an_error_and_the_parts_stay(bundle, tmp_path, monkeypatch):
    from evergreen.serving import batch_workers

    source, target = write_rows(tmp_path / "in.jsonl", 100), tmp_path / "out.jsonl"
    with pytest.raises(BatchInterruptedError):
        run_batch(str(source), str(target), bundle, chunk_rows=20, processes=1, on_chunk=stop_after(2))
    with monkeypatch.context() as patch:
        patch.setattr(batch_workers, "_predict_in_worker", os.abort)
        patch.setattr(batch_workers._Pool, "submit", lambda pool, _: pool._executor.submit(os.abort))
        with pytest.raises(BatchError, match=r"rows 40 to 59: .* killed twice"):
            run_batch(str(source), str(target), bundle, chunk_rows=20, processes=1)
    assert run_batch(str(source), str(target), bundle, chunk_rows=20, processes=1).resumed_rows == 40


def test_sigterm_stops_and_the_same_command_resumes(bundle, tmp_path):
    source, target = write_rows(tmp_path / "in.jsonl", 30_000), tmp_path / "out.jsonl"
    command = ("batch", source, target, "--bundle", bundle, "--chunk-rows", 20, "--processes", 1)
    process = start_cli(*command)
    folder = find_folder(str(target))
    while len(list(folder.glob("*.part"))) < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert "Run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    assert wait_for_end(workers)
    assert len(list(folder.glob("*.part"))) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_killed_at_any_moment_every_row_is_there_once(bundle, tmp_path, suffix):
    source, target = write_rows(tmp_path / "in.jsonl", 6000), tmp_path / f"out.{suffix}"
    run_batch(str(source), str(tmp_path / f"whole.{suffix}"), bundle, processes=2, chunk_rows=5)
    command = ("batch", source, target, "--bundle", bundle, "--chunk-rows", 5, "--processes", 2)
    rng = random.Random(suffix)  # noqa: S311 - no secret
    folder, kills = find_folder(str(target)), 0
    for _ in range(6):
        process = start_cli(*command)
        before = len(list(folder.glob("*.part")))
        while process.poll() is None and len(list(folder.glob("*.part"))) == before:
            time.sleep(0.005)  # kills shall hit the work, not the start
        time.sleep(rng.random() * 0.1)
        workers = [p for p in psutil.process_iter() if p.ppid() == process.pid]
        if workers and rng.random() < 0.5:
            rng.choice(workers).kill()
            time.sleep(rng.random() * 0.5)
            workers = [p for p in psutil.process_iter() if p.ppid() == process.pid]
        process.kill()
        process.communicate(timeout=60)
        assert wait_for_end(workers), "workers outlive their parent"
        kills += process.returncode == -signal.SIGKILL
    assert kills >= 3
    process = start_cli(*command)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert target.read_bytes() == (tmp_path / f"whole.{suffix}").read_bytes()
    rejects = [tmp_path / f"{name}.{suffix}.rejects.jsonl" for name in ("out", "whole")]
    assert rejects[0].read_bytes() == rejects[1].read_bytes()
    assert not list(tmp_path.glob("*.batch*"))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(bundle, tmp_path):
    code = """
import sys
from pathlib import Path
from evergreen.memory import read_peak_mb
from evergreen.serving.batch import run_batch
if __name__ == "__main__":
    result = run_batch(sys.argv[1], sys.argv[2], Path(sys.argv[3]), processes=1)
    print(result.rows, read_peak_mb())
"""
    script = tmp_path / "script.py"
    script.write_text(code)
    texts = make_texts(50)  # cheap to predict, since a chunk computes each once
    for suffix in ("jsonl", "parquet"):
        peaks = {}
        for count in (60_000, 240_000):
            source = tmp_path / f"{count}.jsonl"
            with source.open("w") as file:
                for i in range(count):
                    file.write(json.dumps({"text": texts[i % 50], "id": i, "note": "x" * 100}) + "\n")
            out = subprocess.run(
                [sys.executable, script, source, tmp_path / f"out.{suffix}", bundle],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.split()
            assert int(out[0]) == count
            peaks[count] = float(out[1])
        assert peaks[240_000] < peaks[60_000] + 20, peaks
    assert pq.read_metadata(tmp_path / "out.parquet").num_rows == 240_000


# Buckets


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> Iterator[Bucket]:
    with run_s3_server() as server:
        yield Bucket(server, tmp_path, monkeypatch)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_bucket_to_bucket(bundle, bucket, tmp_path, suffix):
    local = write_rows(tmp_path / "in.jsonl", 300)
    run_batch(str(local), str(tmp_path / f"a.{suffix}"), bundle, processes=1, chunk_rows=100)
    bucket.client.upload_file(str(tmp_path / f"a.{suffix}"), bucket.name, f"deep/in.{suffix}")
    source, target = f"{bucket.uri}/deep/in.{suffix}", f"{bucket.uri}/out/b.{suffix}"
    run_batch(str(tmp_path / f"a.{suffix}"), str(tmp_path / f"b.{suffix}"), bundle, processes=1, chunk_rows=100)
    with pytest.raises(BatchInterruptedError):
        run_batch(source, target, bundle, processes=1, chunk_rows=100, on_chunk=stop_after(1))
    result = run_batch(source, target, bundle, processes=1, chunk_rows=100)
    assert result.resumed_rows == 100
    content = bucket.client.get_object(Bucket=bucket.name, Key=f"out/b.{suffix}")["Body"].read()
    assert content == (tmp_path / f"b.{suffix}").read_bytes()
    assert not list((tmp_path / "state" / "batch").iterdir())


def test_missing_object(bundle, bucket, tmp_path):
    with pytest.raises(SourceError, match=r"none\.csv: unavailable"):
        run_batch(f"{bucket.uri}/none.csv", str(tmp_path / "out.csv"), bundle)
    assert not list(tmp_path.glob("out*"))


# Refused before any work


def test_unusable_targets(bundle, tmp_path):
    source = str(write_rows(tmp_path / "in.jsonl", 5))
    (tmp_path / "folder.csv").mkdir()
    for target, remedy in [
        (source, "are one file"),
        (tmp_path / "none" / "out.csv", "no folder"),
        (tmp_path / "folder.csv", "a folder. Name a file"),
    ]:
        with pytest.raises(BatchUsageError, match=remedy):
            run_batch(source, str(target), bundle)
    with pytest.raises(BundleError):
        run_batch(source, str(tmp_path / "out.csv"), tmp_path)
    with pytest.raises(BatchUsageError, match="at least 1"):
        run_batch(source, str(tmp_path / "out.csv"), bundle, processes=0)


def test_command(bundle, tmp_path, clean_environment):
    source, target = write_rows(tmp_path / "in.jsonl", 300), tmp_path / "out.csv"
    process = start_cli("batch", source, target, "--bundle", bundle, "--processes", 1)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert "296 of 300 rows predicted" in stdout
    assert "texts a second" in stdout
    assert f"4 rejected, with the reasons in {target}.rejects.jsonl" in stdout
    assert "100%" in stderr


def test_command_fails_when_no_row_has_a_text(bundle, tmp_path, clean_environment):
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": ""}\n{"other": "a"}\n')
    result = CliRunner().invoke(app, ["batch", str(source), str(target), "--bundle", str(bundle)])
    assert result.exit_code == 1
    assert f"not one row has a usable text. The reasons are in {target}.rejects.jsonl" in " ".join(
        result.output.split()
    )
    assert len(read_rows(tmp_path / "out.jsonl.rejects.jsonl")) == 2


def test_command_refuses(bundle, tmp_path, clean_environment):
    runner = CliRunner()
    source = str(write_rows(tmp_path / "in.jsonl", 5))
    for arguments, message in [
        ([source, "out.xls"], "not a format of rows"),
        (["none.csv", "out.csv"], "no such file"),
        ([source, "out.csv", "--engine", "spark"], "spark"),
        ([source, "out.csv", "--ray-address", "auto"], "only with --engine ray"),
    ]:
        result = runner.invoke(app, ["batch", *arguments, "--bundle", str(bundle)])
        assert result.exit_code in (1, 2)
        assert message in result.output
