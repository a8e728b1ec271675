"""Prints of code: what they tell of a definition, and how a difference is said."""

from typing import Any, Literal

from perdure import Agent, Context, Network, RoutingAgent, tool, toolset
from perdure.agents.fingerprints import prints_of
from perdure.durable.fingerprint import Verdict, accepted_places, differences, last_prints
from perdure.testing import ScriptedModel
from perdure.types import records as rec
from perdure.types.messages import ToolCall, ToolCallMessage


@tool(effect="pure")
async def find(
    ctx: Context[Any], words: list[str], order: Literal["new", "old"] = "new", most: int | None = None
) -> str:
    """Find."""
    return ""


def prompt(ctx: Context[Any]) -> str:
    return "x"


def test_prints_are_short_and_tell_what_they_stand_for():
    agent = Agent("A", system=prompt, tools=[find, toolset(find).prefixed("my_")], model="openai:gpt-5-mini")
    known = prints_of(agent)["agent A"]
    assert known["prompt"] == "function prompt"
    assert known["model"] == "openai:gpt-5-mini"
    assert known["toolset toolset"] == "_Mapped"
    assert {**known["tool find"], "text": ""} == {
        "effect": "pure",
        "parameter words": "array of string",
        "parameter order": "one of new, old, optional",
        "parameter most": "integer or null, optional",
        "text": "",
    }
    assert prints_of(agent) is prints_of(agent), "they are worked out once"
    assert Agent("B", system="x" * 10_000).name in repr(prints_of(Agent("B", system="x" * 10_000)))
    assert len(str(prints_of(Agent("B", system="x" * 10_000)))) < 60


def test_the_model_is_the_agent_s_or_the_network_s_or_the_runtime_s():
    agent, other = Agent("A"), Agent("B", model=ScriptedModel(name="own"))
    chooser = RoutingAgent("C", on_route=lambda ctx, result: None)
    network = Network("N", agents=[agent, other], router=chooser, model="openai:gpt-5")
    models = {name: one["model"] for name, one in prints_of(network).items() if "model" in one}
    assert models == {"agent A": "openai:gpt-5", "agent B": "test:own", "routing agent C": "openai:gpt-5"}
    assert prints_of(agent, ScriptedModel(name="last"))["agent A"] == {"model": "test:last"}
    assert prints_of(agent)["agent A"] == {}


def test_a_difference_is_said_in_words_and_texts_only_where_nothing_else_tells():
    old = {"router": "route", "a": {"prompt": "#1", "tool pay": {"amount": "integer", "text": "#1"}}, "b": {}}
    new = {"a": {"prompt": "function p", "tool pay": {"amount": "string", "text": "#2"}}, "b": {}, "c": {"x": "1"}}
    assert differences(old, new) == (
        "router is gone",
        "a: prompt changed from a text to function p",
        "a: tool pay: amount changed from integer to string",
        "c is new",
    )
    assert differences({"t": {"text": "#1"}}, {"t": {"text": "#2"}}) == ("t: text changed",)
    assert differences(old, old) == ()
    many = {str(n): "x" for n in range(100)}
    assert differences({}, many)[-1] == "and 70 more"


def test_a_verdict_has_a_word():
    verdicts = [Verdict(), Verdict(("a",)), Verdict(("a",), ("b",))]
    assert [one.name for one in verdicts] == ["same", "compatible", "changed"]


def _records(*rows: tuple[str | None, rec.Payload]) -> list[rec.Record]:
    return [rec.Record(n, "r", "s", key, payload, 0.0) for n, (key, payload) in enumerate(rows, 1)]


def test_what_is_accepted_is_what_was_there_before_the_last_acceptance():
    calls = ToolCallMessage((ToolCall("1", "a"), ToolCall("2", "b")))
    records = _records(
        (None, rec.RunStarted("A", "agent", (), fingerprints={"x": "1"})),
        ("i", rec.InferenceDone("A", (calls,))),
        (None, rec.Started("i/tool/0/x")),
        (None, rec.Unparked(accepted=True)),
        ("i/tool/0/y", rec.StepDone("y")),
        (None, rec.Unparked()),
        (None, rec.Claimed(2, fingerprints={"x": "2"})),
    )
    assert accepted_places(records) == {"i", "i/tool/0", "i/tool/1", "i/tool/0/x"}
    assert accepted_places(records[4:]) == frozenset()
    assert last_prints(records) == {"x": "2"}
    assert last_prints(records[:3]) == {"x": "1"}
    assert last_prints(_records((None, rec.RunStarted("A", "agent", ())))) is None
