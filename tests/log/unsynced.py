"""A process whose writes are recorded: it appends to several sessions and says what was acknowledged.

    python unsynced.py PATH DURABILITY COUNT

It ends as if the power had failed: nothing is closed in order.
"""

from __future__ import annotations

import asyncio
import os
import sys

from perdure.db import here, sqlite
from perdure.log.log import Token
from perdure.testing.conformance import begin, step
from tests.log.stores import log_of, opened

SESSIONS = 3


async def main(path: str, durability: str, count: int) -> None:
    sqlite.CHECKPOINT, here.COMMITS = 40, 2  # often, so that the log begins anew some times
    async with opened(f"sqlite:///{path}", "full" if durability == "full" else "normal") as db:
        log = log_of(db)

        async def append(token: Token) -> None:
            for n in range(count):
                await log.append(token, [step(f"{n}/a"), step(f"{n}/b", "x" * (n % 3) * 2_000)])
                os.write(1, f"{token.session_id} {n}\n".encode())

        runs = [await begin(log, f"run_{n}", f"ses_{n}") for n in range(SESSIONS)]
        os.write(1, b"begun\n")
        await asyncio.gather(*(append(one.token) for one in runs if one.token is not None))
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
