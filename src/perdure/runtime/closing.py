"""Ends a run whose definition is not here: nothing of it can be entered, but what it left open can be closed.

And says what becomes of those that are only left.
"""

from __future__ import annotations

from collections.abc import Sequence

from perdure.durable.fork import closings, spent
from perdure.log.log import Entry
from perdure.types.errors import RunError
from perdure.types.records import Record, RunFinished


def left_at_close(run_id: str) -> RunError:
    """Make the error of a run whose end nobody can wait for here any more."""
    return RunError(f"Run {run_id} was left when its runtime was closed; it goes on when the store is opened again.")


def ending(records: Sequence[Record]) -> list[Entry]:
    """The records that end a cancelled run: a result for each call that has none, and its end.

    Args:
        records: all that the log has of the run.
    """
    why = "The run was cancelled before this call was answered."
    end = RunFinished("cancelled", "cancelled", usage=spent(records))
    return [*closings(records, "interrupted", why, "interrupted"), Entry(None, end)]
