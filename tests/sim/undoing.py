"""Tools whose steps are undone when a crash has left them in doubt."""

from typing import Any

from perdure import Context, StepInDoubt, StepUndone, tool
from perdure.types.messages import ToolCall
from tests.sim.here import here, work


def _undo(run: str, place: str, mark: str) -> None:
    """Undo something; this fails at first in some places, after it was done."""
    here().effect("undo", run, f"{place}#undo", mark)
    if here().world.fails_to_undo(run, place):
        raise ConnectionError("nobody answers")


def unreserve(ctx: Context[Any], room: int) -> None:
    _undo(ctx.run_id, ctx._key, f"{room} {ctx.idempotency_key}")


@tool(undo=unreserve)
async def reserve(ctx: Context[Any], room: int) -> str:
    """Reserve a room, which can be taken back."""
    await work()
    here().effect("once", ctx.run_id, ctx._key, f"{room} {ctx.idempotency_key}")
    await work()
    return f"reserved {room}"


def better(ctx: Context[Any], call: ToolCall) -> ToolCall | None:
    """Take the room beside the one that the model wants."""
    if call.name != "reserve":
        return None
    return ToolCall(call.id, call.name, {"room": call.input["room"] + 1})  # type: ignore[index, call-overload]


@tool(effect="steps")
async def stay(ctx: Context[Any], room: int) -> str:
    """Stay somewhere: one step that can be undone, one that cannot."""
    run, place = ctx.run_id, ctx._key

    async def bed(number: int) -> str:
        await work()
        here().effect("once", run, f"{place}/bed", str(number))
        await work()
        return "bed"

    async def strip(number: int) -> None:
        await work()
        _undo(run, f"{place}/bed", str(number))

    def fee(number: int) -> str:
        here().effect("once", run, f"{place}/fee", str(number))
        return "fee"

    said: list[str] = []
    try:
        said.append(await ctx.step.run("bed", bed, room, undo=strip))
    except StepUndone:
        said.append("stripped")
    try:
        said.append(await ctx.step.run("fee", fee, room))
    except StepInDoubt:
        said.append("perhaps")
    return " ".join(said)
