"""The chunks of a batch, predicted by Ray Data on one machine or a cluster; the parts are written here, as without Ray.

A chunk is one row to Ray. It is never split, merged or predicted beside another, since a text's probabilities may
differ in the seventh decimal with the texts around it, and the result is the same to the byte as without Ray.
"""

import logging
import os
import pickle
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from evergreen.bundle import MANIFEST
from evergreen.serving.batch_files import Source
from evergreen.serving.batch_parts import BatchUsageError, PredictedChunk
from evergreen.serving.batch_workers import Predictor, Task, read_pending
from evergreen.text.bundle import Bundle


@contextmanager
def start_ray(
    source: Source,
    chunk_rows: int,
    first: int,
    first_row: int,
    task: Task,
    processes: int | None,
    address: str | None,
) -> Iterator[Iterator[PredictedChunk]]:
    """Predict the chunks from number `first` on; the cluster is left, or Ray on this machine stopped, at the end.

    Args:
        source: of the rows; read on this machine, a chunk at a time as the predictors take them.
        chunk_rows: rows of a chunk.
        first: number of the first chunk.
        first_row: number of its first row.
        task: what a predictor needs; the files of its bundle are sent to each machine.
        processes: that predict; None: one for each processor of the cluster.
        address: of the cluster; None: Ray is started on this machine, unless it runs in this process already.

    Raises:
        BatchUsageError: where Ray isn't installed, or the cluster can't be reached.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray  # noqa: PLC0415 - takes seconds, and is there only where one scales
        import ray.data  # noqa: PLC0415 - not there with Ray alone
    except ImportError as error:
        raise BatchUsageError(
            "Ray isn't installed. Run pip install 'evergreen[scale]', or leave out --engine."
        ) from error
    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {} if address else {"num_cpus": processes, "include_dashboard": False}
        try:
            _check_reachable(address)
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise BatchUsageError(
                f"{address or 'Ray on this machine'}: unavailable ({error}). Check the address and that Ray runs there."
            ) from error
    try:
        count = processes or max(1, int(ray.cluster_resources().get("CPU", 1)))
        yield _predict(ray, source, chunk_rows, first, first_row, task, count)
    finally:
        if started:
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Raise OSError at once where nothing listens; Ray itself would try for minutes."""
    match = re.fullmatch(r"(?:ray://)?\[?([^/]+?)\]?:(\d+)", address or "")
    if match:
        socket.create_connection((match[1], int(match[2])), timeout=10).close()


def _predict(
    ray: Any, source: Source, chunk_rows: int, first: int, first_row: int, task: Task, processes: int
) -> Iterator[PredictedChunk]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1  # a block for each chunk, so that none waits for others to fill one
    context.target_min_block_size = 1
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it reports each plan and each run
    files = ray.put(read_bundle(task.bundle))  # held to the end, for an actor that is started again
    datasource = _make_datasource(ray, source, chunk_rows, first, first_row)
    dataset = ray.data.read_datasource(
        datasource, override_num_blocks=1, num_cpus=0, scheduling_strategy=here
    ).map_batches(
        _RayPredictor,
        fn_constructor_args=(files, task),
        compute=ray.data.ActorPoolStrategy(size=processes, max_tasks_in_flight_per_actor=2),
        batch_size=1,
        num_cpus=1,
    )
    for row in dataset.iter_rows():
        yield pickle.loads(row["chunk"])  # noqa: S301 - made by our own actors


def read_bundle(folder: Path) -> dict[str, bytes]:
    """Read the files of a bundle, to be written where there is none."""
    bundle = Bundle.load(folder)
    return {name: (folder / name).read_bytes() for name in [MANIFEST, *bundle.manifest.sha256]}


def _make_datasource(ray: Any, source: Source, chunk_rows: int, first: int, first_row: int) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    def read() -> Iterator[Any]:
        for chunk in read_pending(source, chunk_rows, first, first_row):
            yield pa.table({"chunk": pa.array([pickle.dumps(chunk)], pa.binary())})

    class ChunkSource(ray.data.Datasource):  # type: ignore[misc]
        """One task that reads the input on the driver's machine, paused while the predictors are behind."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:  # noqa: ARG002
            metadata = ray.data.block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ray.data.ReadTask(read, metadata)]

    return ChunkSource()


class _RayPredictor:
    """An actor with a model of its own."""

    def __init__(self, files: Any, task: Task) -> None:
        import ray  # noqa: PLC0415

        contents = ray.get(files) if isinstance(files, ray.ObjectRef) else files
        with tempfile.TemporaryDirectory() as folder:
            for name, content in contents.items():
                Path(folder, name).write_bytes(content)
            self._predictor = Predictor(replace(task, bundle=Path(folder)))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        chunks = [self._predictor(pickle.loads(chunk)) for chunk in batch["chunk"]]  # noqa: S301 - made by the driver
        return {"chunk": [pickle.dumps(chunk) for chunk in chunks]}
