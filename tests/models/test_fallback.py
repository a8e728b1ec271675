"""Chains of models."""

from decimal import Decimal

import pytest

from perdure.models import Capabilities, Finished, Model, ModelEvent, ModelRequest, Prices, Restarted, TextChunk, Usage
from perdure.models import fallback as chain
from perdure.types.assemble import Assembler
from perdure.types.errors import (
    AuthenticationFailed,
    BadRequest,
    ContextTooLong,
    DefinitionError,
    MissingKey,
    ModelTimeout,
    Overloaded,
    RateLimited,
)
from perdure.types.messages import assistant, user

REQUEST = ModelRequest((user("Hi"),))


class Steps:
    """A model that yields pieces, or raises what it finds among them."""

    def __init__(self, name: str, *steps: ModelEvent | Exception, **capabilities) -> None:
        self.name = name
        self.provider = "test"
        self.capabilities = Capabilities(**capabilities)
        self.prices: Prices | None = None
        self.steps = steps
        self.asked = 0
        self.closed = 0

    async def stream(self, request: ModelRequest):
        self.asked += 1
        try:
            for step in self.steps:
                if isinstance(step, Exception):
                    raise step
                yield step
        finally:
            self.closed += 1

    async def aclose(self) -> None:
        self.closed += 100


def good(name: str, text: str = "Hello", **capabilities) -> Steps:
    return Steps(name, TextChunk(text), Finished(model=name, provider="test"), **capabilities)


async def pieces(model: Model) -> list[ModelEvent]:
    return [piece async for piece in model.stream(REQUEST)]


async def test_the_first_that_can_answers_and_the_others_are_not_asked() -> None:
    first, second = good("a"), good("b")
    assert await pieces(chain(first, second)) == [TextChunk("Hello"), Finished(model="a", provider="test")]
    assert second.asked == 0


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("busy"),
        RateLimited("slow"),
        ModelTimeout("late"),
        AuthenticationFailed("key"),
        MissingKey("test", "TEST_KEY"),
        BadRequest("no such model", status=404),
    ],
)
async def test_what_may_be_better_elsewhere_goes_on(error) -> None:
    assert await pieces(chain(Steps("a", error), good("b"))) == [
        Restarted(f"test:a failed: {type(error).__name__}", "test", "b", "test:a"),
        TextChunk("Hello"),
        Finished(model="b", provider="test"),
    ]


@pytest.mark.parametrize("error", [BadRequest("wrong", status=400), ContextTooLong("long"), ValueError("a mistake")])
async def test_what_is_wrong_everywhere_does_not(error) -> None:
    second = good("b")
    with pytest.raises(type(error)) as raised:
        await pieces(chain(Steps("a", error), second))
    assert raised.value is error
    assert second.asked == 0


async def test_the_caller_may_decide() -> None:
    model = chain(Steps("a", ContextTooLong("long")), good("b"), on=lambda error: isinstance(error, ContextTooLong))
    assert await pieces(model)
    with pytest.raises(Overloaded):
        await pieces(chain(Steps("a", Overloaded("busy")), good("b"), on=lambda error: False))


async def test_what_was_streamed_before_is_void() -> None:
    model = chain(Steps("a", TextChunk("Hel"), Overloaded("busy")), good("b", "Good day"))
    got = await pieces(model)
    assert got[0] == TextChunk("Hel")
    assert got[1] == Restarted("test:a failed: Overloaded", "test", "b", "test:a")
    assembler = Assembler()
    for piece in got:
        assembler.add(piece)
    assert assembler.messages() == (assistant("Good day"),)


async def test_each_that_failed_is_named() -> None:
    got = await pieces(chain(Steps("a", TextChunk("Hel"), Overloaded("x")), Steps("b", Overloaded("x")), good("c")))
    assert [type(piece) for piece in got] == [TextChunk, Restarted, Restarted, TextChunk, Finished]
    assert [piece.failed for piece in got if isinstance(piece, Restarted)] == ["test:a", "test:b"]


async def test_the_last_error_is_raised_and_knows_the_others() -> None:
    last = RateLimited("slow", retry_after=7)
    with pytest.raises(RateLimited) as raised:
        await pieces(chain(Steps("a", Overloaded("busy")), Steps("b", AuthenticationFailed("key")), Steps("c", last)))
    assert raised.value is last
    assert raised.value.__notes__ == [
        "Before, test:a failed: Overloaded: busy",
        "Before, test:b failed: AuthenticationFailed: key",
    ]


async def test_streams_are_closed_when_the_consumer_walks_away() -> None:
    first = good("a")
    stream = chain(first, good("b")).stream(REQUEST)
    assert await anext(stream) == TextChunk("Hello")
    await stream.aclose()  # type: ignore[attr-defined]
    assert first.closed == 1


async def test_closing_closes_all() -> None:
    first, second = good("a"), good("b")
    await chain(first, second).aclose()
    assert (first.closed, second.closed) == (100, 100)


async def test_the_one_who_answered_sets_the_price() -> None:
    cheap, dear = Steps("a", Overloaded("busy")), good("b")
    dear.steps = (Finished(usage=Usage(input_tokens=1_000_000)),)
    cheap.prices, dear.prices = Prices(Decimal(1), Decimal(1)), Prices(Decimal(5), Decimal(5))
    _, finished = await pieces(chain(cheap, dear))
    assert isinstance(finished, Finished)
    assert finished.usage.cost == Decimal(5)


def test_a_chain_can_what_all_of_its_models_can() -> None:
    yes, alone, no = (good(one, structured_output=one) for one in ("yes", "alone", "no"))
    assert chain(yes, yes).capabilities.structured_output == "yes"
    assert chain(yes, alone).capabilities.structured_output == "alone"
    assert chain(alone, no, yes).capabilities.structured_output == "no"
    assert not chain(good("a", prefill=True), good("b")).capabilities.prefill


def test_a_chain_needs_two_and_takes_names() -> None:
    with pytest.raises(DefinitionError, match="at least two"):
        chain(good("a"))
    model = chain("openai:gpt-5-mini", "anthropic:claude-haiku-4-5")
    assert model.name == "openai:gpt-5-mini,anthropic:claude-haiku-4-5"
    assert "gpt-5-mini" in repr(model)
