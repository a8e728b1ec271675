"""A process of its own that erases a user and is killed in the middle: `python forgetting.py URL USER AFTER`."""

import asyncio
import os
import signal
import sys
from typing import Any

from perdure import Runtime
from perdure.log import erase
from perdure.runtime import upkeep


async def main(url: str, user: str, after: int) -> None:
    """Erase a user, and die when so many sessions are erased and nothing more has happened."""
    done = 0

    async def then_die(*given: Any, **options: Any) -> Any:
        nonlocal done
        erased = await erase.erase_session(*given, **options)
        done += 1
        if done == after:
            os.kill(os.getpid(), signal.SIGKILL)
        return erased

    upkeep.erase_session = then_die
    async with Runtime(url, workers=False) as rt:
        await rt.erase(user_id=user)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
