"""Sync user code runs in a daemon thread of its own: it never blocks the loop, and a hung one never blocks the exit."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_log = logging.getLogger("perdure")


async def in_thread(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a sync function in a thread and await its result.

    Cancelled, it returns at once; the thread cannot be stopped, and what it returns later is logged and dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            how = "" if error is None else f" with {type(error).__name__}: {error}"
            what = args[0] if args and callable(args[0]) else fn
            _log.warning("%s ended late%s; nobody waits for it any more.", getattr(what, "__name__", what), how)
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def work() -> None:
        result: Any = None
        failure: BaseException | None = None
        try:
            result = context.run(fn, *args, **kwargs)
        except (StopIteration, GeneratorExit) as error:  # a future cannot carry it
            failure = RuntimeError(f"{getattr(fn, '__name__', fn)!r} raised {type(error).__name__}")
            failure.__cause__ = error
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name=f"perdure-{getattr(fn, '__name__', 'call')}", daemon=True).start()
    return await future
