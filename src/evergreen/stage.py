"""How a pipeline stage starts and fails: quiet logs, and one clear line for what the user can mend."""

import sys
from collections.abc import Callable

from evergreen import logs
from evergreen.params import ParamsError
from evergreen.settings import Settings
from evergreen.sources import SourceError
from evergreen.text.bundle import BundleError
from evergreen.text.reading import CorpusError


def run(main: Callable[[], None]) -> None:
    """Run a stage; exit with 2 for wrong parameters, with 1 for other known failures, else with the traceback."""
    logs.configure(Settings().log_level)
    try:
        main()
    except (ParamsError, SourceError, CorpusError, BundleError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, ParamsError) else 1)
