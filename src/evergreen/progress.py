"""Progress of long work: a bar on a terminal, a line now and then in a log."""

import sys
from typing import Any

from tqdm import tqdm


def show_progress(items: Any, name: str, **options: Any) -> Any:
    """Wrap an iterable in a bar; see tqdm for the options."""
    seconds = 0.5 if sys.stderr.isatty() else 15
    return tqdm(items, name, mininterval=seconds, maxinterval=seconds, **options)
