"""What inferences consumed: tokens, calls, money."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

import msgspec

from perdure.types.base import Base
from perdure.types.errors import DefinitionError


class Usage(Base):
    """Tokens and calls; adding two gives their sum.

    `input_tokens` counts every token of the prompts, cached ones included; `output_tokens` every token that was
    produced, reasoning included. `cost` is in US dollars, None where no price is known.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    model_calls: int = 0
    tool_calls: int = 0
    cost: Decimal | None = None

    @property
    def total_tokens(self) -> int:
        """Input and output tokens together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Usage) -> Usage:
        if other is NOTHING:
            return self
        if self is NOTHING:
            return other
        cost = self.cost if other.cost is None else other.cost if self.cost is None else self.cost + other.cost
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.model_calls + other.model_calls,
            self.tool_calls + other.tool_calls,
            cost,
        )


NOTHING = Usage()
"""What sums begin with."""


class Prices(Base):
    """US dollars per million tokens of one model; cached input costs as plain input unless said otherwise.

    Plain numbers are taken as they are written, so that 0.1 is a tenth and not the binary number nearest to it.

    Raises:
        DefinitionError: a price is no number, or is negative.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal | None = None
    cache_write: Decimal | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            given = getattr(self, name)
            if type(given) is Decimal and given.is_finite() and given >= 0:
                continue
            if given is None and name.startswith("cache"):
                continue
            try:
                price = Decimal(str(given))
            except InvalidOperation:
                price = Decimal(-1)
            if not price.is_finite() or price < 0:
                raise DefinitionError(f"Prices({name}={given!r}): give US dollars per million tokens, from 0.")
            msgspec.structs.force_setattr(self, name, price)

    def cost(self, usage: Usage) -> Decimal:
        """Price a usage in US dollars."""
        plain = max(0, usage.input_tokens - usage.cache_read_tokens - usage.cache_write_tokens)
        read = self.input if self.cache_read is None else self.cache_read
        write = self.input if self.cache_write is None else self.cache_write
        millions = (
            plain * self.input
            + usage.cache_read_tokens * read
            + usage.cache_write_tokens * write
            + usage.output_tokens * self.output
        )
        return millions / 1_000_000
