"""A real PostgreSQL for tests, in a folder and on a port of its own."""

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from pathlib import Path

import psycopg
import pytest


class Postgres:
    """A cluster that can be stopped and started."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self.folder = Path(tempfile.mkdtemp(prefix="evergreen-postgres-", dir="/tmp"))
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "evergreen", "-A", "trust", "-E", "UTF8")

    def _run(self, program: str, *arguments: str) -> None:
        # The server refuses to run as root.
        prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        command = [*prefix, str(self._programs / program), *arguments]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=on"
        log = str(self.folder / "server.log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-o", options, "-l", log, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-m", "immediate", "stop")

    def get_url(self, database: str) -> str:
        return f"postgresql+psycopg://evergreen:pa55word@127.0.0.1:{self.port}/{database}"

    def make_database(self) -> str:
        """Create an empty database and return its address."""
        name = f"log_{uuid.uuid4().hex}"
        with psycopg.connect(self.get_url("postgres").replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.get_url(name)

    def remove(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


def make_postgres() -> Postgres:
    """Make and start a cluster; skip the test where PostgreSQL isn't installed."""
    programs = [*sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]
    if found := shutil.which("initdb"):
        programs.append(Path(found).resolve().parent)
    programs = [folder for folder in programs if (folder / "initdb").exists() and (folder / "pg_ctl").exists()]
    if not programs:
        pytest.skip("PostgreSQL is not installed, so the log is not tested on it: apt-get install postgresql")
    server = Postgres(programs[0])
    server.start()
    return server
