"""The offline model: it looks up, quotes with sources, fills schemas, and never pretends."""

import json
from typing import Any

import pytest

from perdure.models.model import Model, ModelRequest, ModelSettings, OutputSpec, ToolSpec
from perdure.models.offline import OfflineModel
from perdure.types.attachments import image
from perdure.types.chunks import Finished, ModelEvent, TextChunk, ToolCallChunk
from perdure.types.messages import Message, ToolCall, ToolCallMessage, ToolResultMessage, assistant, system, user

SEARCH = ToolSpec(
    "search_files",
    "Search the files",
    {
        "type": "object",
        "properties": {"query": {"type": "string"}, "limit": {"type": "integer"}},
        "required": ["query"],
    },
)
GUIDE = """# Sailing

A sloop has one mast and two
sails. A ketch has two masts.

| rig | masts |
|---|---|
| yawl | two, the mizzen behind the rudder |

## Mooring

- Tie the bow line first.
- Then the stern line; a spring line stops her from surging.
"""


def spec(name: str, description: str = "", /, **properties: Any) -> ToolSpec:
    return ToolSpec(name, description, {"type": "object", "properties": properties, "required": list(properties)})


def found(content: Any, query: str = "q", name: str = "search_files", error: bool = False) -> list[Message]:
    call = ToolCall("1", name, {"query": query})
    return [ToolCallMessage((call,)), ToolResultMessage(call, content if error else {"data": content})]


async def collect(request: ModelRequest) -> list[ModelEvent]:
    return [event async for event in OfflineModel().stream(request)]


async def say(*messages: Message, **options: Any) -> str:
    return "".join(one.text for one in await collect(ModelRequest(messages, **options)) if isinstance(one, TextChunk))


async def call(*messages: Message, **options: Any) -> tuple[str, dict[str, Any]] | None:
    calls = [one for one in await collect(ModelRequest(messages, **options)) if isinstance(one, ToolCallChunk)]
    assert len(calls) < 2
    return (calls[0].name, json.loads(calls[0].arguments)) if calls else None


def test_it_is_a_model() -> None:
    model: Model = OfflineModel()
    assert isinstance(model, Model)
    assert (model.provider, model.name) == ("offline", "offline")


class TestLookingUp:
    async def test_it_searches_for_the_key_words_of_a_question(self) -> None:
        request = ModelRequest((user("How many masts does a ketch have?"),), tools=(SEARCH,))
        events = await collect(request)
        assert isinstance(events[0], ToolCallChunk)
        assert (events[0].name, json.loads(events[0].arguments)) == ("search_files", {"query": "masts ketch"})
        assert isinstance(events[-1], Finished)
        assert events[-1].reason == "tool"

    async def test_the_same_request_gets_the_same_answer(self) -> None:
        request = ModelRequest((user("Which boats have two masts?"), *found([{"path": "a.md", "text": GUIDE}])))
        assert await collect(request) == await collect(request)

    async def test_with_a_result_for_the_last_question_it_answers(self) -> None:
        assert await call(user("A ketch?"), *found([]), tools=(SEARCH,)) is None

    async def test_a_new_question_is_looked_up_again(self) -> None:
        messages = [user("How many masts has a ketch?"), *found([]), assistant("?"), user("And where is the rudder?")]
        assert await call(*messages, tools=(SEARCH,)) == ("search_files", {"query": "masts ketch rudder"})

    @pytest.mark.parametrize(
        "tool",
        [
            spec("lookup", "Find an order", question={"type": "string"}),
            spec("docs", "Search the documentation", q={"type": "string"}),
            spec("find_person", "People", name={"type": "string"}),
            spec("get_weather", "Weather now", city={"type": "string"}),
        ],
        ids=lambda tool: tool.name,
    )
    async def test_it_finds_the_tool_that_looks_things_up(self, tool: ToolSpec) -> None:
        others = (spec("send_mail", "Send what you find", text={"type": "string"}), spec("noop"))
        called = await call(user("What is the weather in Oslo?"), tools=(*others, tool))
        assert called is not None
        assert called[0] == tool.name

    async def test_it_fills_a_named_place(self) -> None:
        tool = spec("weather", "Current weather", city={"type": "string"}, unit={"enum": ["C", "F"]})
        assert await call(user("What is the weather in Oslo?"), tools=(tool,)) == (
            "weather",
            {"city": "Oslo", "unit": "C"},
        )

    @pytest.mark.parametrize("name", ["delete_account", "pay", "send_mail"])
    async def test_it_never_changes_anything_of_its_own_will(self, name: str) -> None:
        tool = spec(name, "Search and delete the account, pay, send mail", query={"type": "string"})
        assert await call(user("delete my account, pay and send mail"), tools=(tool,)) is None

    async def test_no_tool_is_called_when_none_may_be(self) -> None:
        assert await call(user("How many masts?"), tools=(SEARCH,), tool_choice="none") is None


class TestForcedTools:
    async def test_the_named_tool_is_called_whatever_it_does(self) -> None:
        pay = spec("pay", "", amount={"type": "integer", "minimum": 1}, currency={"enum": ["USD", "EUR"]})
        messages = (user("Pay the bill of 40 in eur"), *found([]))
        assert await call(*messages, tools=(SEARCH, pay), tool_choice="pay") == (
            "pay",
            {"amount": 40, "currency": "EUR"},
        )

    async def test_any_calls_one_even_without_a_fitting_one(self) -> None:
        assert await call(user("Hello"), tools=(spec("noop"),), tool_choice="any") == ("noop", {})

    async def test_any_searches_first_and_then_gives_the_answer(self) -> None:
        answer = spec("final", "The answer", masts={"type": "integer"})
        question = user("How many masts?")
        first = await call(question, tools=(answer, SEARCH), tool_choice="any")
        assert first == ("search_files", {"query": "masts"})
        then = await call(question, *found("masts: 2"), tools=(answer, SEARCH), tool_choice="any")
        assert then == ("final", {"masts": 2})
        other = spec("find_more", "Search elsewhere", query={"type": "string"})
        assert await call(question, *found("masts: 2"), tools=(other, answer, SEARCH), tool_choice="any") == then


class TestAnswers:
    async def test_it_quotes_the_best_sentence_and_its_line(self) -> None:
        answer = await say(
            user("How many masts does a ketch have?"), *found([{"path": "a.md", "start": 10, "text": GUIDE}])
        )
        assert answer == "A ketch has two masts. (a.md:13)"

    async def test_a_wrapped_sentence_is_joined_and_cited_where_it_begins(self) -> None:
        answer = await say(user("What is a sloop?"), *found([{"path": "a.md", "start": 1, "text": GUIDE}]))
        assert answer == "A sloop has one mast and two sails. (a.md:3)"

    async def test_table_rows_and_list_items_are_sentences(self) -> None:
        hits = [{"path": "a.md", "start": 1, "text": GUIDE}]
        assert (
            await say(user("Which rig is a yawl?"), *found(hits)) == "yawl — two, the mizzen behind the rudder (a.md:8)"
        )
        assert "Then the stern line; a spring line stops her from surging. (a.md:13)" in await say(
            user("What does a spring line do?"), *found(hits)
        )

    @pytest.mark.parametrize(
        "content",
        [
            "b/a.md:4: A ketch has two masts.",
            "b/a.md:4-5\nA ketch has two masts.\nMore.",
            {"hits": [{"file": "b/a.md", "lines": "4-5", "snippet": "A ketch has two masts."}]},
            {"path": "b/a.md", "line": 4, "content": "A ketch has two masts."},
            [{"type": "text", "text": '[{"path": "b/a.md", "line": 4, "text": "A ketch has two masts."}]'}],
        ],
        ids=["grep", "header", "nested", "flat", "text that is JSON"],
    )
    async def test_it_reads_results_of_many_shapes(self, content: Any) -> None:
        assert await say(user("How many masts has a ketch?"), *found(content)) == "A ketch has two masts. (b/a.md:4)"

    async def test_a_record_is_quoted_with_the_name_of_its_tool(self) -> None:
        results = found({"temperature": 3, "sunny": True}, "Oslo weather", "weather")
        assert await say(user("The weather in Oslo?"), *results) == "temperature: 3, sunny: true (weather)"

    async def test_it_quotes_what_another_agent_found(self) -> None:
        hits = found([{"path": "a.md", "start": 1, "text": GUIDE}])
        assert await say(system("Answer."), user("Which line first?"), *hits, assistant("Found 1 file.")) == (
            "Tie the bow line first. (a.md:12)"
        )
        assert "a.md:12" in await say(*hits, user("Which bow line first?"))

    async def test_it_says_when_nothing_matches(self) -> None:
        answer = await say(user("Who is the king of Norway?"), *found([{"path": "a.md", "text": GUIDE}]))
        assert "no answer" in answer
        assert "Who is the king of Norway?" in answer
        assert "none of the" in answer

    async def test_one_word_of_many_is_no_match(self) -> None:
        question = user("Which king of Norway built the first ketch for his fleet?")
        assert "no answer" in await say(question, *found([{"path": "a.md", "text": GUIDE}]))

    async def test_links_are_shown_by_their_text_and_comments_are_not_shown(self) -> None:
        text = "<!-- A ketch has\ntwo masts. -->\n\nSee [the rigs](rigs.md): a ketch has two masts.\n"
        results = found([{"path": "a.md", "start": 1, "text": text}])
        answer = await say(user("How many masts has a ketch?"), *results)
        assert answer == "See the rigs: a ketch has two masts. (a.md:4)"

    async def test_a_pointer_to_another_page_comes_after_what_says_it(self) -> None:
        text = "- [Masts of a ketch](rigs.md): masts, ketch\n- Of masts a ketch has two.\n"
        results = found([{"path": "a.md", "start": 1, "text": text}])
        assert (await say(user("Masts of a ketch?"), *results)).startswith("Of masts a ketch has two. (a.md:2)")

    async def test_it_says_when_nothing_was_found(self) -> None:
        assert "found nothing" in await say(user("Who is the king of Norway?"), *found([]))

    async def test_it_says_when_the_tool_failed(self) -> None:
        failure = found({"error": {"name": "OSError", "message": "the disk is gone"}}, error=True)
        assert await say(user("What is a sloop?"), *failure) == (
            "The tool search_files failed, so there is nothing to quote: the disk is gone"
        )

    async def test_without_tools_and_results_it_says_what_it_is(self) -> None:
        answer = await say(user("What is a sloop?"))
        assert "no language model" in answer
        assert "quote" in answer

    @pytest.mark.parametrize("messages", [(), (system("x"),), (user([image(b"png")]),), (user("?!"),), (user("the"),)])
    async def test_it_answers_whatever_it_is_asked(self, messages: tuple[Message, ...]) -> None:
        assert await say(*messages)
        assert await call(*messages, tools=(SEARCH,), tool_choice="any")

    async def test_nothing_is_quoted_twice(self) -> None:
        hits = [{"path": path, "start": 1, "text": "A ketch has two masts."} for path in ("a.md", "b.md")]
        assert await say(user("How many masts has a ketch?"), *found(hits)) == "A ketch has two masts. (a.md:1)"

    async def test_code_is_quoted_line_by_line_and_docstrings_as_prose(self) -> None:
        code = '@dataclass\nclass Boat:\n    """A hull\n    with sails."""\n\n    masts: int = 1\n'
        hits = [{"path": "boat.py", "start": 1, "text": code}]
        assert (await say(user("What is a boat's hull?"), *found(hits))).startswith("A hull with sails. (boat.py:3)")
        assert "masts: int = 1 (boat.py:6)" in await say(user("masts int"), *found(hits))

    async def test_a_huge_result_is_no_problem(self) -> None:
        text = "x" * 2_000_000 + "\n" + "(a.b[c" * 20_000 + "\nA ketch has two masts."
        assert await say(user("How many masts has a ketch?"), *found(text)) == "A ketch has two masts. (search_files)"


class TestStreaming:
    async def test_text_comes_word_by_word(self) -> None:
        events = await collect(ModelRequest((user("What is a sloop?"), *found([{"path": "a.md", "text": GUIDE}]))))
        pieces = [one.text for one in events if isinstance(one, TextChunk)]
        assert pieces[:3] == ["A ", "sloop ", "has "]
        assert isinstance(events[-1], Finished)
        assert (events[-1].reason, events[-1].model, events[-1].provider) == ("stop", "offline", "offline")
        assert events[-1].usage.output_tokens == len(pieces)
        assert events[-1].usage.input_tokens > 20

    async def test_the_settings_limit_the_answer(self) -> None:
        messages = (user("What is a sloop?"), *found([{"path": "a.md", "text": GUIDE}]))
        events = await collect(ModelRequest(messages, settings=ModelSettings(max_tokens=2)))
        assert "".join(one.text for one in events if isinstance(one, TextChunk)) == "A sloop "
        assert isinstance(events[-1], Finished)
        assert events[-1].reason == "max_tokens"
        assert await say(*messages, settings=ModelSettings(stop=("mast",))) == "A sloop has one "


class TestRouting:
    PROMPT = """Choose. <agents>
    <agent><name>Billing</name><description>Answers questions about charges</description><tools></tools></agent>
    <agent>
      <name>Boats &amp; rigs</name>
      <description>Knows masts and sails</description>
      <tool><name>search_files</name><description>Finds charges</description></tool>
    </agent></agents>"""
    TOOLS = (
        spec("select_agent", "Select the next agent", name={"type": "string"}, reason={"type": "string"}),
        spec("done", "Stop", summary={"type": "string"}),
    )

    async def test_it_selects_the_agent_whose_description_fits(self) -> None:
        called = await call(system(self.PROMPT), user("How many masts?"), tools=self.TOOLS, tool_choice="any")
        assert called is not None
        assert (called[0], called[1]["name"]) == ("select_agent", "Boats & rigs")

    async def test_it_is_done_when_an_agent_has_answered(self) -> None:
        messages = (system(self.PROMPT), user("How many masts?"), assistant("Two."))
        assert await call(*messages, tools=self.TOOLS, tool_choice="any") == ("done", {"summary": "Two."})

    async def test_it_takes_the_names_of_the_schema_when_the_prompt_lists_none(self) -> None:
        tools = (spec("select_agent", "", name={"enum": ["Ada the biller", "Bo the sailor"]}), spec("done"))
        assert await call(user("a sailor?"), tools=tools, tool_choice="any") == (
            "select_agent",
            {"name": "Bo the sailor"},
        )


class TestStructuredOutput:
    @staticmethod
    async def fill(text: str, schema: dict[str, Any], *more: Message) -> Any:
        return json.loads(await say(user(text), *more, output=OutputSpec("out", schema)))

    async def test_values_stand_beside_their_names(self) -> None:
        schema = {
            "type": "object",
            "properties": {
                "total": {"type": "number"},
                "currency": {"type": "string"},
                "paid": {"type": "boolean"},
                "due": {"type": "string", "format": "date"},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            },
            "required": ["total", "currency", "paid", "due"],
        }
        text = "The invoice of 2024: total: 1,200.50, the currency is EUR, due 2024-03-01, not yet paid"
        assert await self.fill(text, schema) == {"total": 1200.5, "currency": "EUR", "paid": True, "due": "2024-03-01"}

    async def test_references_lists_and_nesting(self) -> None:
        schema = {
            "type": "object",
            "properties": {"boat": {"$ref": "#/$defs/Boat"}, "masts": {"type": "array", "items": {"type": "integer"}}},
            "required": ["boat", "masts"],
            "$defs": {
                "Boat": {
                    "type": "object",
                    "properties": {"rig": {"enum": ["sloop", "ketch"]}, "kind": {"const": "boat"}},
                    "required": ["rig", "kind"],
                }
            },
        }
        expected = {"boat": {"rig": "ketch", "kind": "boat"}, "masts": [2, 1]}
        assert await self.fill("A ketch has 2 masts, a cat has 1", schema) == expected

    async def test_it_fills_from_what_tools_found(self) -> None:
        schema = {"type": "object", "properties": {"masts": {"type": "integer"}}, "required": ["masts"]}
        assert await self.fill("How many masts?", schema, *found({"masts": 2})) == {"masts": 2}

    async def test_what_the_text_does_not_tell_gets_the_least_value(self) -> None:
        schema = {
            "type": "object",
            "properties": {
                "count": {"type": "integer", "minimum": 3, "maximum": 9},
                "share": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1, "default": 0.5},
                "email": {"type": "string", "format": "email"},
                "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            },
            "required": ["count", "share", "email", "tags"],
        }
        filled = await self.fill("nothing here, 1 or 20", schema)
        assert (filled["count"], filled["share"], filled["email"], len(filled["tags"])) == (3, 0.5, "", 1)

    async def test_a_schema_that_refers_to_itself_ends(self) -> None:
        node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}, "required": ["next"]}
        schema = {
            "type": "object",
            "properties": {"node": {"$ref": "#/$defs/Node"}},
            "required": ["node"],
            "$defs": {"Node": node},
        }
        assert "node" in await self.fill("x", schema)
