"""A wall clock that a test or a rehearsal can set, for Python processes that it starts."""

import os
from pathlib import Path

_CODE = '''"""Shift the wall clock by what a file says: Python's, and that of the evergreen package in this process and in those it starts.

`datetime` is replaced in evergreen's own modules only: pandas, for one, takes no other class for it.
"""

import datetime
import importlib.abc
import sys
import time

_time, _datetime = time.time, datetime.datetime


def shift():
    try:
        with open({path!r}) as file:
            return float(file.read())
    except (OSError, ValueError):
        return 0.0


class _IsDatetime(type):
    def __instancecheck__(cls, value):
        return isinstance(value, _datetime)


class datetime_(_datetime, metaclass=_IsDatetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.fromtimestamp(time.time(), tz)


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] != "evergreen":
            return None
        others = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_replace(module):
            execute(module)
            if getattr(module, "datetime", None) is _datetime:
                module.datetime = datetime_

        spec.loader.exec_module = execute_and_replace
        return spec


time.time = lambda: _time() + shift()
time.time_ns = lambda: int(time.time() * 1e9)
sys.meta_path.insert(0, Finder())
'''


class ShiftedClock:
    """Python runs a `sitecustomize` before anything else; processes that are started with `environment` have this one.

    Args:
        folder: for it, and for how far the clock is shifted.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "shift"
        (folder / "sitecustomize.py").write_text(_CODE.format(path=str(self._file)))
        self.environment = {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(":")}

    def set(self, seconds: float) -> None:
        """Shift the clock from the real time."""
        partial = self._file.with_suffix(".partial")
        partial.write_text(str(seconds))
        partial.replace(self._file)
