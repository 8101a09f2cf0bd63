"""Times on the command line: in UTC, unless they name another zone."""

from datetime import UTC, datetime

FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]
METAVAR = "YYYY-MM-DD[THH:MM:SS[±HH:MM]]"


def add_zone(time: datetime) -> datetime:
    """The time in UTC where it names no zone."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)
