"""Ends a run whose definition is not here: nothing of it can be entered, but what it left open can be closed.

And says what becomes of those that are only left.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.log.log import Entry
from perdure.types.errors import RunError
from perdure.types.messages import ToolCallMessage, ToolResultMessage
from perdure.types.records import InferenceDone, Record, RunFinished, ToolDone
from perdure.types.usage import NOTHING

_WHY = {"error": {"name": "interrupted", "message": "The run was cancelled before this call was answered."}}


def left_at_close(run_id: str) -> RunError:
    """Make the error of a run whose end nobody can wait for here any more."""
    return RunError(f"Run {run_id} was left when its runtime was closed; it goes on when the store is opened again.")


def ending(records: Sequence[Record]) -> list[Entry]:
    """The records that end a cancelled run: a result for each call that has none, and its end.

    Args:
        records: all that the log has of the run.
    """
    closed = {one.key for one in records}
    entries: list[Entry] = []
    usage = NOTHING
    for record in records:
        done = record.payload
        if not isinstance(done, InferenceDone):
            continue
        usage += done.usage
        answered = {one.tool.id for one in done.answered}
        calls = [call for one in done.messages if isinstance(one, ToolCallMessage) for call in one.tools]
        for n, call in enumerate(calls):
            key = f"{record.key}/tool/{n}"
            if key not in closed and call.id not in answered:
                entries.append(Entry(key, ToolDone(done.agent, ToolResultMessage(call, _WHY), "interrupted")))
    return [*entries, Entry(None, RunFinished("cancelled", "cancelled", usage=usage))]
