"""What every history adapter must do, as tests that you run against your own.

    class TestMyHistory(HistoryConformance):
        @pytest.fixture
        async def histories(self):
            store = await open_my_store()
            yield lambda: MyHistory(store)
            await store.close()

`histories` makes an adapter over one empty store; two of them stand for two processes. What an adapter does not
override is not asked of it. The tests are coroutines, so pytest needs `asyncio_mode = "auto"`. To be told what was
wrong, write into a `conftest.py`: `pytest.register_assert_rewrite("perdure.testing.history_conformance")`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from perdure.agents.agent import Agent
from perdure.agents.history import Asked, HistoryAdapter, HistoryContext, Past, ask, read_past, read_thread_id, rules_of
from perdure.agents.result import AgentResult
from perdure.agents.state import State
from perdure.testing.models import ScriptedModel, say
from perdure.types.messages import (
    FilePart,
    ImagePart,
    Message,
    ReasoningMessage,
    TextMessage,
    TextPart,
    ToolCall,
    ToolCallMessage,
    ToolResultMessage,
)

MakeHistory: TypeAlias = Callable[[], HistoryAdapter]

_ODD = "Österbymo \u0000 \N{EARTH GLOBE EUROPE-AFRICA} '; DROP TABLE x; -- \\ \" %s :name {0} \u2028\r\n\t"
_CALL = ToolCall("call_1", "weather", {"city": _ODD, "days": [1, 2.5, None, True, {}]})
CONVERSATION: tuple[Past, ...] = (
    Asked("m-1", (TextMessage("user", "hi", id="m-1"),), 1_700_000_000.25),
    AgentResult("Ada", (TextMessage("assistant", "Hello."),), "run_1/agent/0", 1_700_000_001.123456),
    Asked(
        "run_2/input/ab",
        (
            TextMessage(
                "user", (TextPart(_ODD), ImagePart(b"\x00\xff" * 50), FilePart(url="https://example.org/a.pdf"))
            ),
        ),
        1_700_000_002.0,
    ),
    AgentResult(
        "Böb /2",
        (
            ReasoningMessage("hm"),
            ToolCallMessage((_CALL,)),
            ToolResultMessage(_CALL, {"data": {"deep": [[], {}, "x"], "text": _ODD}}),
            TextMessage("assistant", "It is " + "warm. " * 30_000),
        ),
        "run_2/agent/0",
        1_700_000_003.5,
    ),
    AgentResult("Ada", (TextMessage("assistant", ""),), "run_2/agent/1", 1_700_000_003.5),
)
"""A conversation with everything in it that a store might spoil."""


def context(
    thread_id: str, *, asked: Asked | None = None, results: Sequence[AgentResult] = (), user_id: str | None = "ada"
) -> HistoryContext:
    """What an adapter is told with a call."""
    state: State[Any] = State({}, thread_id=thread_id or None)
    text = asked.content if asked is not None else ""
    return HistoryContext(thread_id, text, state, "Ada", "run_1", user_id, asked, tuple(results))


async def store(adapter: HistoryAdapter, thread_id: str, turns: Sequence[Past]) -> None:
    """Append turns one after another, as runs would."""
    for turn in turns:
        if isinstance(turn, Asked) and "append_user_message" in rules_of(adapter):
            await ask(adapter, "append_user_message", context(thread_id, asked=turn))
        elif isinstance(turn, AgentResult):
            await ask(adapter, "append_results", context(thread_id, results=[turn]))


async def said(adapter: HistoryAdapter, thread_id: str, asked: Asked | None = None) -> list[Message]:
    """The messages that an adapter gives of a thread."""
    past = read_past(adapter, await ask(adapter, "get", context(thread_id, asked=asked)))
    return [one for turn in past for one in messages_of(turn)]


def messages_of(turn: Past) -> Sequence[Message]:
    """The messages of a turn."""
    return turn.messages if isinstance(turn, (Asked, AgentResult)) else (turn,)


def answer(n: int, who: str = "Ada") -> AgentResult:
    """A result of its own."""
    return AgentResult(who, (TextMessage("assistant", f"{who} {n}"),), f"run_{who}/agent/{n}", 1_700_000_000.0 + n)


class HistoryConformance:
    """The rules of a history adapter; a subclass has a fixture `histories`."""

    async def test_a_thread_that_nobody_has_written_to_is_empty(self, histories: MakeHistory) -> None:
        assert await said(histories(), "nobody") == []

    async def test_created_threads_are_new_and_empty(self, histories: MakeHistory) -> None:
        adapters = [histories() for _ in range(3)]
        if "create_thread" not in rules_of(adapters[0]):
            return
        made = await asyncio.gather(*(ask(adapters[n % 3], "create_thread", context("")) for n in range(9)))
        ids = [read_thread_id(adapters[0], one) for one in made]
        assert len(set(ids)) == 9
        assert await said(adapters[0], ids[0]) == []

    async def test_a_thread_can_be_ensured_again_and_again(self, histories: MakeHistory) -> None:
        adapters = [histories() for _ in range(3)]
        if "ensure_thread" not in rules_of(adapters[0]):
            return
        await asyncio.gather(*(ask(one, "ensure_thread", context("t-1")) for one in adapters * 2))
        await store(adapters[0], "t-1", [answer(0)])
        await ask(adapters[1], "ensure_thread", context("t-1"))
        assert await said(adapters[1], "t-1") == [*answer(0).messages]

    async def test_what_is_stored_is_given_back_unchanged_and_in_order(self, histories: MakeHistory) -> None:
        one, other = histories(), histories()
        turns = CONVERSATION
        if "append_user_message" not in rules_of(one):
            turns = tuple(turn for turn in turns if not isinstance(turn, Asked))
        await store(one, "t-1", turns)
        expected = [message for turn in turns for message in messages_of(turn)]
        assert await said(other, "t-1") == expected
        assert await said(one, "t-1") == expected

    async def test_several_results_of_one_call_keep_their_order(self, histories: MakeHistory) -> None:
        adapter = histories()
        results = [answer(n) for n in (3, 1, 2, 0)]  # what they are ordered by is the order in which they are given
        await ask(adapter, "append_results", context("t-1", results=results))
        assert await said(adapter, "t-1") == [one.messages[0] for one in results]

    async def test_a_repetition_is_stored_once(self, histories: MakeHistory) -> None:
        adapter, again = histories(), histories()
        await store(adapter, "t-1", CONVERSATION)
        before = await said(adapter, "t-1")
        await store(again, "t-1", CONVERSATION)
        await ask(again, "append_results", context("t-1", results=[answer(1), answer(1)]))
        assert await said(again, "t-1") == [*before, *answer(1).messages]

    async def test_the_same_turn_belongs_to_each_thread_that_it_is_stored_in(self, histories: MakeHistory) -> None:
        adapter = histories()
        for thread in ("t-1", "t-2"):
            await store(adapter, thread, [answer(0)])
        assert await said(adapter, "t-1") == await said(adapter, "t-2") == [*answer(0).messages]

    async def test_threads_are_apart_however_alike_their_ids_are(self, histories: MakeHistory) -> None:
        adapter = histories()
        ids = ["a", "A", "a.b", "a:b", "a|b", "a~", "a=", "a@b", "a+b", "_a", "a_", "a-", "1" * 200, "1" * 199]
        for n, id in enumerate(ids):
            await store(adapter, id, [answer(n)])
        for n, id in enumerate(ids):
            assert await said(adapter, id) == [*answer(n).messages], id

    async def test_b38_get_leaves_out_the_message_that_the_run_is_about(self, histories: MakeHistory) -> None:
        adapter = histories()
        if "append_user_message" not in rules_of(adapter):
            return
        asked = Asked("m-1", (TextMessage("user", "hi"),), 1.0)
        await store(adapter, "t-1", [answer(0), asked])
        assert await said(adapter, "t-1", asked) == [*answer(0).messages]

    async def test_appends_at_once_lose_and_double_nothing_and_keep_their_order(self, histories: MakeHistory) -> None:
        adapters = [histories() for _ in range(4)]

        async def write(n: int) -> None:
            for m in range(5):
                await store(adapters[n], "t-1", [answer(m, f"w{n}")])
                await store(adapters[(n + 1) % 4], "t-1", [answer(m, f"w{n}")])  # by another one too

        await asyncio.gather(*(write(n) for n in range(4)))
        texts = [one.text for one in await said(adapters[0], "t-1") if isinstance(one, TextMessage)]
        assert sorted(texts) == sorted(f"w{n} {m}" for n in range(4) for m in range(5))
        for n in range(4):
            assert [text for text in texts if text.startswith(f"w{n} ")] == [f"w{n} {m}" for m in range(5)]

    async def test_a_conversation_goes_on_where_it_was_left(self, histories: MakeHistory) -> None:
        model = ScriptedModel(say("One."), say("Two."))
        agent = Agent("Ada", model=model, history=histories())
        await agent.run("first", session_id="t-1")
        await agent.replace(history=histories()).run("second", session_id="t-1")
        texts = [one.text for one in model.requests[1].messages if isinstance(one, TextMessage)]
        asked_too = "append_user_message" in rules_of(histories())
        assert texts == (["first", "One.", "second"] if asked_too else ["One.", "second"])
