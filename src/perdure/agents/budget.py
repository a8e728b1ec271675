"""Budgets: what a run and everything below it may consume, checked before each call."""

from __future__ import annotations

from decimal import Decimal

from perdure.types.base import Base
from perdure.types.errors import DefinitionError
from perdure.types.usage import NOTHING, Usage


class Budget(Base):
    """Limits of a run and its child runs together; None is no limit.

    `tokens` counts input and output, `cost` is in US dollars, `seconds` is wall-clock time. A call that is in flight
    when a limit is reached is finished, so the overshoot is at most the calls in flight.

    Raises:
        DefinitionError: a limit is negative.
    """

    tokens: int | None = None
    cost: Decimal | None = None
    model_calls: int | None = None
    tool_calls: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, _KINDS.get(name, (int,))):
                raise DefinitionError(f"Budget({name}={value!r}) must be a number" + _WHOLE.get(name, "."))
            if value < 0:
                raise DefinitionError(f"Budget({name}={value}) is negative.")


_KINDS: dict[str, tuple[type, ...]] = {"cost": (Decimal, int, float), "seconds": (int, float)}
_WHOLE: dict[str, str] = dict.fromkeys(("tokens", "model_calls", "tool_calls"), " without a fraction.")


class Ledger:
    """What a run has consumed against its budget; a child run's ledger also charges its parent's."""

    __slots__ = ("budget", "open", "parent", "used")

    def __init__(self, budget: Budget | None, parent: Ledger | None = None) -> None:
        self.budget = budget
        self.parent = parent
        self.used = NOTHING
        self.open = 0

    def begin(self, calls: int) -> None:
        """Count model calls that are in flight, or (negative) are not any more, here and above."""
        if self.budget is not None:
            self.open += calls
        if self.parent is not None:
            self.parent.begin(calls)

    def charge(self, usage: Usage) -> None:
        """Count what a call consumed, here and above, where a limit asks for it."""
        if self.budget is not None:
            self.used += usage
        if self.parent is not None:
            self.parent.charge(usage)

    def exceeded(self, *, tool: bool = False) -> str | None:
        """Say which limit is used up, so that no further call may start; None if none is."""
        budget, used = self.budget, self.used
        if budget is not None:
            if tool:
                if budget.tool_calls is not None and used.tool_calls >= budget.tool_calls:
                    return f"{used.tool_calls} of {budget.tool_calls} tool calls are used"
            elif budget.model_calls is not None and used.model_calls + self.open >= budget.model_calls:
                flying = f", and {self.open} are in flight" if self.open else ""
                return f"{used.model_calls} of {budget.model_calls} model calls are used{flying}"
            if budget.tokens is not None and used.total_tokens >= budget.tokens:
                return f"{used.total_tokens} of {budget.tokens} tokens are used"
            if budget.cost is not None and (used.cost or 0) >= budget.cost:
                return f"{used.cost or 0} of {budget.cost} dollars are used"
        return self.parent.exceeded(tool=tool) if self.parent is not None else None

    @property
    def counts_cost(self) -> bool:
        """Whether a limit in dollars applies here or above."""
        own = self.budget is not None and self.budget.cost is not None
        return own or (self.parent is not None and self.parent.counts_cost)


UNLIMITED = Ledger(None)
"""The ledger of every run without a budget; it counts nothing, so all can share it."""
