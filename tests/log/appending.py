"""A process that appends to a store of its own accord; a test starts several and kills some.

    python appending.py ADDRESS NAME COUNT TASKS

waits for a line on its input, then appends COUNT times in each of TASKS sessions of its own and posts as often to the
run `shared`. It prints the key of each append when that is acknowledged.
"""

from __future__ import annotations

import asyncio
import sys
from uuid import uuid4

from perdure.log.log import Token
from perdure.testing.conformance import begin, step
from perdure.types.records import Answered
from perdure.types.waits import Answer
from tests.log.stores import log_of, opened


async def main(address: str, name: str, count: int, tasks: int) -> None:
    sys.stdin.readline()
    async with opened(address) as db:
        log = log_of(db, name)
        await begin(log, "shared", "shared")

        async def append(token: Token) -> None:
            for n in range(count):
                key = f"{token.run_id}/{n}"
                await log.append(token, [step(f"{key}/a"), step(f"{key}/b", "x" * (n % 7) * 20_000)])
                print(key, flush=True)
                await log.post("shared", Answered(key, Answer(name)))

        runs = [
            await begin(log, f"{name}_{n}_{uuid4().hex[:6]}", f"ses_{name}_{n}_{uuid4().hex}") for n in range(tasks)
        ]
        tokens = [one.token for one in runs if one.token is not None]
        assert len(tokens) == tasks
        await asyncio.gather(*map(append, tokens))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
