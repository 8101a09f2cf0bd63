"""The signals, each a class in a module of its own here; being here registers it."""

import inspect
from collections.abc import Mapping
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from pydantic import ValidationError

from evergreen.monitoring.signals.base import Measurement, Rule, Signal, Status
from evergreen.params import ParamsError

__all__ = ["Measurement", "Rule", "Signal", "Status", "list_signals", "load_signals"]


def list_signals() -> dict[str, type[Signal]]:
    """The classes of all signals by name."""
    classes = {}
    for module in iter_modules(__path__):
        members = vars(import_module(f"{__name__}.{module.name}")).values()
        for member in members:
            is_signal = inspect.isclass(member) and issubclass(member, Signal) and not inspect.isabstract(member)
            if is_signal and member.get_name() == module.name:
                classes[module.name] = member
    return classes


def load_signals(params: Mapping[str, Mapping[str, Any]]) -> dict[str, Signal]:
    """Make every signal from `monitor.signals` of `params.yaml`, in that order; one not named there gets its defaults.

    Raises:
        ParamsError: naming every wrong key with its value and what is allowed.
    """
    classes = list_signals()
    signals, problems = {}, []
    for name in params.keys() - classes.keys():
        problems.append(f"monitor.signals.{name}: no such signal. There are: {', '.join(sorted(classes))}.")
    for name in [*(name for name in params if name in classes), *sorted(classes.keys() - params.keys())]:
        try:
            signals[name] = classes[name].model_validate(dict(params.get(name, {})))
        except ValidationError as error:
            for problem in error.errors():
                key = ".".join(["monitor.signals", name, *map(str, problem["loc"])])
                problems.append(f"{key}: found {problem['input']!r}. {problem['msg']}")
    if problems:
        raise ParamsError(f"params.yaml: {len(problems)} problem(s)\n  " + "\n  ".join(sorted(problems)))
    return signals
