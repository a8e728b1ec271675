"""What a run may still consume under the budgets above it, where runs of one family are driven in several places.

A run that was invoked is bounded by the budgets of those above it, also when another process drives it. What all of a
family have consumed is counted from their logs before each step, each record read once; so the overshoot is at most the
calls that are in flight in the family.
"""

from __future__ import annotations

import msgspec

from perdure.agents.budget import UNLIMITED, Budget, Ledger
from perdure.agents.running import Running
from perdure.log.sql import SqlLog
from perdure.types.records import AttemptLost, InferDone, InferenceDone, Payload, RunStarted, ToolDone
from perdure.types.usage import NOTHING, Usage


class Family:
    """The runs below those whose budgets bound one run.

    Args:
        log: the container's log.
        running: the run.
    """

    def __init__(self, log: SqlLog, running: Running) -> None:
        self._log = log
        self._running = running
        self._above: list[tuple[str, Ledger]] = []
        self._seen: dict[str, tuple[int, Usage]] = {}

    async def bind(self, parent: str | None) -> None:
        """Bound the run by the budgets of those that have started it."""
        found: list[tuple[str, Budget]] = []
        while parent is not None:
            first = (await self._log.read_run(parent))[:1]
            started = first[0].payload if first else None
            if isinstance(started, RunStarted) and "budget" in started.options:
                found.append((parent, msgspec.convert(started.options["budget"], Budget, strict=False)))
            parent = (await self._log.run(parent)).parent
        env, chain = self._running.env, UNLIMITED
        for id, budget in reversed(found):
            chain = Ledger(budget, chain)
            self._above.append((id, chain))
        if chain is UNLIMITED:
            return
        lowest = env.ledger
        if lowest is UNLIMITED:
            env.ledger = chain
            return
        while lowest.parent is not None and lowest.parent is not UNLIMITED:
            lowest = lowest.parent
        lowest.parent = chain

    async def count(self) -> None:
        """Count what the families have consumed until now."""
        env = self._running.env
        own: Budget | None = env.options.get("budget")
        mine = [(env.run_id, env.ledger)] if own is not None and env.invoked_any else []
        for top, ledger in (*self._above, *mine):
            total, left = NOTHING, [top]
            while left:
                id = left.pop()
                total += await self._consumed(id)
                left += await self._log.started_by(id)
            ledger.used = total

    async def _consumed(self, run_id: str) -> Usage:
        """What one run has consumed itself, without those that it has started."""
        seq, total = self._seen.get(run_id, (0, NOTHING))
        for record in await self._log.read_run(run_id, seq):
            seq, total = record.seq, total + _own(record.payload)
        self._seen[run_id] = (seq, total)
        return total


def _own(payload: Payload) -> Usage:
    if isinstance(payload, (InferenceDone, InferDone, AttemptLost)):
        return payload.usage
    if isinstance(payload, ToolDone) and payload.outcome not in ("not_run", "denied"):
        return Usage(tool_calls=1)
    return NOTHING
