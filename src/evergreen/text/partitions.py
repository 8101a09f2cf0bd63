"""Rows on disk in the order of their hash, so that duplicates meet; memory holds one part of them at a time."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa

_FAN_OUT = 16
_WRITE = pa.ipc.IpcWriteOptions(compression="zstd")


class HashPartitions:
    """Takes rows in any order and returns them sorted by `text_hash`, then by `order`.

    What is larger than `max_rows` is divided by ranges of the hash until its parts are not. The files are streams: they
    hold no index, which would grow with the corpus.
    """

    def __init__(self, folder: Path, schema: pa.Schema, max_rows: int) -> None:
        """Write below `folder`; `schema` has `text_hash`, 64 bits without sign, and `order`."""
        self._folder = folder
        self._schema = schema
        self._max_rows = max_rows
        self._file = folder / "all"
        self._rows = 0

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True)
        self._writer = pa.ipc.new_stream(self._file, self._schema, options=_WRITE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def add(self, rows: pd.DataFrame) -> None:
        """Keep rows."""
        self._writer.write_table(pa.Table.from_pandas(rows, self._schema, preserve_index=False))
        self._rows += len(rows)

    def read_sorted(self) -> Iterator[pd.DataFrame]:
        """Return what was added; rows of one hash are in one part."""
        yield from self._read(self._file, self._rows, 0, 1 << 64)

    def _read(self, file: Path, n_rows: int, low: int, width: int) -> Iterator[pd.DataFrame]:
        if n_rows <= self._max_rows or width < _FAN_OUT:
            if n_rows:
                yield self._load([file])
            return
        edges = [low + width * n // _FAN_OUT for n in range(_FAN_OUT + 1)]
        sizes = self._divide(file, edges)
        file.unlink()
        small: list[Path] = []  # neighbors that fit together
        n_small = 0
        for n, size in enumerate(sizes):
            part = self._name_part(file, n)
            if n_small and n_small + size > self._max_rows:
                yield self._load(small)
                small, n_small = [], 0
            if size > self._max_rows:
                yield from self._read(part, size, edges[n], edges[n + 1] - edges[n])
            else:
                small.append(part)
                n_small += size
        if n_small:
            yield self._load(small)

    def _name_part(self, file: Path, n: int) -> Path:
        return file.with_name(f"{file.name}-{n}")

    def _load(self, files: list[Path]) -> pd.DataFrame:
        tables = []
        for file in files:
            with pa.OSFile(str(file)) as source, pa.ipc.open_stream(source) as stream:
                tables.append(stream.read_all())
            file.unlink()
        rows: pd.DataFrame = pa.concat_tables(tables).to_pandas()
        return rows.sort_values(["text_hash", "order"], ignore_index=True)

    def _divide(self, file: Path, edges: list[int]) -> list[int]:
        inner = np.array(edges[1:-1], dtype=np.uint64)
        sizes = np.zeros(_FAN_OUT, dtype=np.int64)
        with ExitStack() as stack:
            writers = [
                stack.enter_context(pa.ipc.new_stream(file.with_name(f"{file.name}-{n}"), self._schema, options=_WRITE))
                for n in range(_FAN_OUT)
            ]
            stream = stack.enter_context(pa.ipc.open_stream(stack.enter_context(pa.OSFile(str(file)))))
            for batch in stream:
                position = np.searchsorted(inner, batch["text_hash"].to_numpy(), side="right")
                counts = np.bincount(position, minlength=_FAN_OUT)
                grouped = batch.take(pa.array(np.argsort(position, kind="stable")))
                start = 0
                for writer, count in zip(writers, counts.tolist(), strict=True):
                    if count:
                        writer.write_batch(grouped.slice(start, count))
                    start += count
                sizes += counts
        return [int(size) for size in sizes]
