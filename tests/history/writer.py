"""A process that appends to a thread: `writer.py KIND ADDRESS NAME WHO COUNT`, told by a line on its input to begin.

It appends results of its own, and after each one that the other processes append too.
"""

import asyncio
import sys

from tests.history.keeping import opened, result


async def main(kind: str, address: str, name: str, who: str, count: int) -> None:
    async with opened(kind, address, name) as history:
        print("ready", flush=True)
        sys.stdin.readline()
        for n in range(count):
            await history.append("t", [result(who, n), result("all", n)])


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5], int(sys.argv[5])))
