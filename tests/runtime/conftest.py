"""What tests of the runtime share: a store, a folder for effects, and processes that are killed."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.runtime import desk


class Processes:
    """Starts `desk.py` in processes of its own; none outlives its test."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url = url
        self._folder = folder
        self._all: list[asyncio.subprocess.Process] = []
        self.said = folder / "said"

    async def start(self, *arguments: str, kill: str | None = None, **given: str) -> asyncio.subprocess.Process:
        """Start one; `kill` says at which write it dies, `given` what else is in its environment."""
        environment = {**os.environ, **({"KILL": kill} if kill else {}), **given}
        environment["PYTHONPATH"] = os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", ""))
        with self.said.open("a") as said:
            process = await asyncio.create_subprocess_exec(
                sys.executable, desk.__file__, self._url, str(self._folder), *arguments, env=environment, stderr=said
            )
        self._all.append(process)
        return process

    async def run(self, *arguments: str, kill: str | None = None, **given: str) -> int:
        """Start one, wait for its end, and give its exit code."""
        process = await self.start(*arguments, kill=kill, **given)
        async with asyncio.timeout(60):
            return await process.wait()

    async def end(self) -> None:
        for one in self._all:
            if one.returncode is None:
                one.send_signal(signal.SIGKILL)
                await one.wait()

    def silent(self) -> None:
        """See that none has said anything on its standard error, but that a run is parked."""
        lines = self.said.read_text().splitlines() if self.said.exists() else []
        assert [one for one in lines if "is parked" not in one] == []


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/desk.db"


@pytest_asyncio.fixture
async def processes(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Processes on the store, and the effects of this process in the same folder."""
    monkeypatch.setattr(desk, "place", tmp_path)
    found = Processes(url, tmp_path)
    yield found
    await found.end()
    found.silent()
