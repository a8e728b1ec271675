"""What people and programs get wrong about runs that live for weeks: each says what is wrong, and changes nothing."""

from typing import Any

import pytest

from perdure import Conflict, Context, DefinitionError, InvalidId, Runtime, UnknownName, function
from perdure.types.waits import wait_id
from tests.runtime.desk import QUICK


@function
async def expects(ctx: Context[Any]) -> bool:
    """Wait for an event for a moment."""
    return await ctx.step.wait_for_event("ok", "app/ok", timeout=0.1) is not None


async def test_what_comes_too_late_is_unknown_or_too_large_is_said(url: str):
    async with Runtime(url, [expects], timing=QUICK) as rt:
        run = await rt.start(expects, run_id="job")
        wait = (await run.reached()).waits[0].id
        assert (await run.result()).output is False
        before = await rt.container("default").log.read_run("job")
        assert (await rt.send_event("app/ok", id="late")).id == "late", "it is taken in, and nobody waits for it"
        for asked, error, said in (
            (rt.approve(wait), Conflict, "it was over by itself, at 20.*This answer changes nothing"),
            (rt.approve(wait_id("nobody", "a")), UnknownName, "named 'nobody'"),
            (rt.cancel("nobody"), UnknownName, "no run named 'nobody'"),
            (rt.resume("job"), Conflict, "'job' is over"),
            (rt.fork("job", 999), InvalidId, "has no record 999: its records are 1 to"),
            (rt.fork("nobody"), UnknownName, "no run named 'nobody'"),
            (rt.session("session_job").fork(999), InvalidId, "and no record 999"),
            (rt.send_event("app/big", {"x": "a" * 10_500_000}), DefinitionError, "10.5 MB and at most 1.0 MB"),
            (rt.send_event(""), DefinitionError, "event name '' is not allowed"),
            (rt.send_event("app/other", id="late"), Conflict, "late"),
        ):
            with pytest.raises(error, match=said):
                await asked
        assert await rt.container("default").log.read_run("job") == before
