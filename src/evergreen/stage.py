"""How a pipeline stage starts and fails: quiet logs, and one clear line for what the user can fix."""

from collections.abc import Callable

from evergreen import logs
from evergreen.errors import exit_on_error, redact_tracebacks
from evergreen.settings import Settings, check_cache


def run(main: Callable[[], None]) -> None:
    """Run a stage; exit with 2 for wrong parameters, with 1 for other known failures, else with the traceback."""
    logs.configure()
    redact_tracebacks()
    with exit_on_error():
        settings = Settings.load()
        logs.configure(settings.log_level)
        settings.check_state_dir()
        check_cache()
        main()
