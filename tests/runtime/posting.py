"""A process that posts events in a session, and notes each that it was told is kept: `posting.py URL FOLDER WHO N`."""

import asyncio
import os
import sys
from pathlib import Path

from perdure import Runtime


async def start(url: str, folder: Path, who: str, count: int) -> asyncio.subprocess.Process:
    """Start one."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / p) for p in ("src", ""))}
    arguments = (__file__, url, str(folder), who, str(count))
    return await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environment)


def acknowledged(folder: Path, who: str) -> list[int]:
    """The records that one was told of."""
    path = folder / f"told-{who}"
    return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


async def main(url: str, folder: str, who: str, count: str) -> None:
    async with Runtime(url) as rt:
        for n in range(int(count)):
            posted = await rt.session.event(session_id="s", type=who, content=f"{n}")
            with (Path(folder) / f"told-{who}").open("a") as file:
                file.write(f"{posted.seq}\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
