"""Runs an example in a process that kills itself: `dying.py KEY:WHEN:N EXAMPLE [ARGUMENT…]`.

It dies before or after its N-th write to the log that closes the step KEY; `transaction` is any
transaction of a user's.
"""

import os
import runpy
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from perdure.log.sql import SqlLog


def dies(key: str, when: str, number: int) -> None:
    """Kill this process at that write."""
    left = number

    def watched(write: Callable[..., Awaitable[Any]], closes: Callable[..., bool]) -> Callable[..., Awaitable[Any]]:
        async def written(*args: Any, **options: Any) -> Any:
            nonlocal left
            now = closes(*args)
            left -= now
            if now and not left and when == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            result = await write(*args, **options)
            if now and not left:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return written

    log: Any = SqlLog
    log.append = watched(SqlLog.append, lambda _log, _token, entries, *_: any(one.key == key for one in entries))
    log.transact = watched(SqlLog.transact, lambda *_: key == "transaction")


if __name__ == "__main__":
    key, when, number = sys.argv[1].rsplit(":", 2)
    dies(key, when, int(number))
    sys.argv = sys.argv[2:]
    runpy.run_path(sys.argv[0], run_name="__main__")
