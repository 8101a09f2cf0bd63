"""A PostgreSQL for the files that need one."""

from collections.abc import Iterator

import pytest
from postgres import Postgres, make_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = make_postgres()
    yield server
    server.remove()
