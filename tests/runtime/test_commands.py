"""Commands, images and live agents on SQLite and PostgreSQL: behaviours 9 to 22, 29, 33 to 35, 38 and 40."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from perdure import Agent, Conflict, DefinitionError, InvalidId, Runtime, UnknownName
from perdure.runtime.workdir import make_workdir, workdir
from perdure.testing import FunctionModel, ScriptedModel, call, say
from perdure.types.envelope import SystemEvent
from tests.runtime.desk import QUICK
from tests.runtime.test_forget import everything

COMMANDS = (
    *("container_create", "container_get", "container_list", "agent_get", "agent_list", "agent_destroy"),
    *("agent_destroy_all", "message_send", "agent_interrupt", "image_create", "image_run", "image_stop"),
    *("image_update", "image_list", "image_get", "image_delete", "image_messages", "image_fork", "image_rewind"),
)


class Watched(Runtime):
    """A runtime that remembers what its bus has told."""

    seen: list[SystemEvent]

    def types(self, *names: str) -> list[str]:
        return [one.type for one in self.seen if not names or one.type in names]

    async def until(self, type: str, count: int = 1) -> SystemEvent:
        """Wait for the so-manieth event of a type."""
        stream = self.bus.stream("*")
        async with asyncio.timeout(20), stream:
            while True:
                found = [one for one in self.seen if one.type == type]
                if len(found) >= count:
                    return found[count - 1]
                await anext(stream)


def system(request: Any) -> str:
    return request.messages[0].text if request.messages[0].role == "system" else "none"


def echo() -> FunctionModel:
    return FunctionModel(lambda request: say(f"{request.messages[-1].text}!"))


def opened(url: str, *definitions: Any, **options: Any) -> Watched:
    runtime = Watched(url, definitions, timing=QUICK, durability="normal", **{"model": echo(), **options})
    runtime.seen = []
    return runtime


@pytest_asyncio.fixture
async def runtime(url: str, tmp_path: Path) -> AsyncIterator[Watched]:
    async with opened(url, base_path=tmp_path / "base") as found:
        found.on_any(found.seen.append, priority=1000)
        yield found


async def image(runtime: Runtime, container: str = "acme", **config: Any) -> str:
    response = await runtime.request("image_create_request", {"container_id": container, "config": config})
    return response.data["record"]["image_id"]


async def test_x10_a_command_that_fails_says_so_once_and_beside_its_response(runtime: Watched):
    for n, command in enumerate(COMMANDS):
        wrong = {"request_id": f"r{n}", "container_id": "\0", "image_id": 7, "agent_id": ""}
        response = await runtime.request(f"{command}_request", wrong)
        assert response.type == f"{command}_response" and response.data["request_id"] == f"r{n}"
        if command == "container_list":
            assert "error" not in response.data
            continue
        (told,) = (one for one in runtime.seen if one.type == "system_error" and one.data["request_id"] == f"r{n}")
        assert response.data["error"] == told.data["message"] and told.data["severity"] == "error"
        assert runtime.types()[-2:] == ["system_error", response.type]


async def test_x09_an_unknown_command_gets_an_error(runtime: Watched):
    response = await runtime.request("image_paint_request", {})
    assert response.type == "image_paint_response" and "Unknown command" in response.data["error"]
    runtime.on_command("mine_request", lambda e: runtime.emit_command("mine_response", dict(e.data)))
    assert "error" not in (await runtime.request("mine_request", {})).data


async def test_x11_x12_a_container_is_made_once_and_is_there_after_a_restart(url: str):
    async with opened(url) as first:
        first.on_any(first.seen.append)
        await asyncio.gather(*(first.request("container_create_request", {"container_id": "acme"}) for _ in range(20)))
        assert first.types("container_created") == ["container_created"]
        assert (await first.request("container_get_request", {"container_id": "nobody"})).data["exists"] is False
    async with opened(url, Agent("A", model=echo())) as second:
        assert (await second.request("container_list_request")).data["container_ids"] == ["acme"]
        assert (await second.request("container_get_request", {"container_id": "acme"})).data["exists"]
        await second.container("tenant").run(second.registry.get("A"), "x", session_id="s")
        assert (await second.request("container_list_request")).data["container_ids"] == ["acme", "tenant"]
        assert (await second.request("container_get_request", {"container_id": "tenant"})).data["exists"]


async def test_x13_an_image_is_made_of_what_is_given_and_of_the_default_agent(url: str):
    default = {"name": "Helper", "system_prompt": "Help.", "mcp_servers": {"files": {"command": "none"}}}
    async with opened(url, default_agent=default) as runtime:
        made = (await runtime.request("image_create_request", {"container_id": "new", "config": {"name": "Mine"}})).data
        record = made["record"]
        assert record is not None and made["subscriptions"] == [record["session_id"]]
        assert (record["name"], record["system_prompt"], record["online"]) == ("Mine", "Help.", False)
        assert record["mcp_servers"] == {"files": {"command": "none"}}
        assert (await runtime.images.create("new"))["name"] == "Helper"
        assert (await runtime.request("container_get_request", {"container_id": "new"})).data["exists"]
        other = await runtime.images.create("new", mcp_servers={"web": {"command": "none"}})
        assert other["mcp_servers"] == {"web": {"command": "none"}}, "a field is taken whole"
    async with opened(url) as runtime:
        assert (await runtime.images.create("new"))["name"] == "New Conversation"


async def test_x14_images_are_listed_the_newest_first_with_who_is_online(runtime: Watched):
    ids = [await image(runtime, container) for container in ("acme", "acme", "other")]
    agent_id, _ = await runtime.images.run(ids[0])
    listed = (await runtime.request("image_list_request", {"container_id": "acme"})).data["records"]
    assert [one["image_id"] for one in listed] == [ids[1], ids[0]]
    assert [(one["online"], one["agent_id"]) for one in listed] == [(False, None), (True, agent_id)]
    assert [one["image_id"] for one in (await runtime.request("image_list_request")).data["records"]] == ids[::-1]
    unknown = await runtime.request("image_get_request", {"image_id": "img_x"})
    assert unknown.data["record"] is None and "error" not in unknown.data


async def test_x15_an_update_changes_what_is_given_and_the_next_turn_has_it(url: str):
    model = FunctionModel(lambda request: say(f"{system(request)} {len(request.messages)}"))
    async with opened(url, model=model) as runtime:
        id = await image(runtime, name="A", system_prompt="One")
        assert (await runtime.ask(id, "x")).output == "One 2"
        updates: Any = {"system_prompt": "Two", "description": "d"}
        record = (await runtime.request("image_update_request", {"image_id": id, "updates": updates})).data["record"]
        assert record is not None and (record["name"], record["description"]) == ("A", "d")
        assert (await runtime.ask(id, "y")).output == "Two 4"
        for wrong in ({"name": None}, {"colour": "red"}, {"mcp_servers": {"x": {"command": 5}}}):
            response = await runtime.request("image_update_request", {"image_id": id, "updates": wrong})
            assert response.data["error"]
        merged = await runtime.images.update(id, metadata={"a": 1, "b": 2})
        merged = await runtime.images.update(id, metadata={"a": None})
        assert merged["metadata"] == {"b": 2}


async def test_x16_an_image_has_one_agent_however_many_run_it(runtime: Watched):
    id = await image(runtime)
    got = await asyncio.gather(*(runtime.request("image_run_request", {"image_id": id}) for _ in range(20)))
    assert len({one.data["agent_id"] for one in got}) == 1
    assert Counter(one.data["reused"] for one in got) == {False: 1, True: 19}
    assert runtime.types("agent_registered") == ["agent_registered"]
    await runtime.request("image_stop_request", {"image_id": id})
    again = await runtime.request("image_run_request", {"image_id": id})
    assert again.data["agent_id"] != got[0].data["agent_id"] and not again.data["reused"]


async def test_x16_two_runtimes_on_one_store_have_one_agent_of_an_image(url: str):
    async with opened(url) as one, opened(url) as two:
        id = await image(one)
        first, second = await asyncio.gather(one.images.run(id), two.images.run(id))
        assert first[0] == second[0] and {first[1], second[1]} == {True, False}
        assert await two.images.destroy(first[0])
        assert await one.images.agent(first[0]) is None
        assert (await one.images.run(id))[0] != first[0]


async def test_x17_stopping_keeps_the_image_and_what_was_said(runtime: Watched):
    id = await image(runtime)
    await runtime.ask(id, "Hi")
    agent_id, _ = await runtime.images.run(id)
    for _ in range(2):
        assert "error" not in (await runtime.request("image_stop_request", {"image_id": id})).data
    assert not (await runtime.request("agent_get_request", {"agent_id": agent_id})).data["exists"]
    assert (await runtime.request("message_send_request", {"agent_id": agent_id, "content": "x"})).data["error"]
    messages = (await runtime.request("image_messages_request", {"image_id": id})).data["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant"]
    assert (await runtime.request("image_stop_request", {"image_id": "img_x"})).data["error"]


async def test_x18_deleting_ends_and_removes(runtime: Watched):
    id = await image(runtime)
    await runtime.ask(id, "A secret")
    for _ in range(2):
        assert "error" not in (await runtime.request("image_delete_request", {"image_id": id})).data
    assert (await runtime.request("image_get_request", {"image_id": id})).data["record"] is None
    gone = await runtime.request("image_messages_request", {"image_id": id})
    assert gone.data["error"] and gone.data["messages"] == []
    assert "A secret" not in await everything(runtime)
    assert runtime.types("agent_unregistered") == ["agent_unregistered"] and not runtime.images.live


async def test_x19_x22_a_message_is_stored_then_answered_for_then_streamed(runtime: Watched):
    async def asked(request: Any) -> Any:
        kept.append([one["role"] for one in await runtime.images.messages(id)])
        return say("Yes.")

    kept: list[list[str]] = []
    runtime.model = FunctionModel(asked)
    id = await image(runtime)
    sent = await runtime.request("message_send_request", {"image_id": id, "content": "Hi"})
    await runtime.until("turn_response")
    assert kept == [["user"]], "what asks a model is stored before it"
    order = [
        one
        for one in runtime.types()
        if one in ("message_persisted", "user_message", "message_send_response", "text_delta")
    ]
    assert order.index("message_persisted") < order.index("user_message")
    assert order.index("message_send_response") < order.index("text_delta")
    by_agent = await runtime.request("message_send_request", {"agent_id": sent.data["agent_id"], "content": "Ho"})
    assert by_agent.data["agent_id"] == sent.data["agent_id"]
    await runtime.until("turn_response", 2)
    for wrong in ({"content": "x"}, {"agent_id": "agent_x", "content": "x"}, {"image_id": "img_x", "content": "x"}):
        assert (await runtime.request("message_send_request", wrong)).data["error"]
    said = [one.data["content"] for one in runtime.seen if one.type == "user_message"]
    assert said == ["Hi", "Ho"]
    asked = next(one for one in runtime.seen if one.type == "user_message")
    assert asked.data["id"] == sent.data["message_id"] and asked.context.image_id == id


async def test_x20_an_interrupt_of_who_is_offline_succeeds(runtime: Watched):
    id = await image(runtime)
    for one in (id, "img_x"):
        response = await runtime.request("agent_interrupt_request", {"image_id": one})
        assert "error" not in response.data and "agent_id" not in response.data
    assert (await runtime.request("agent_interrupt_request", {"agent_id": "agent_x"})).data["error"]


async def test_x21_agents_are_listed_got_and_destroyed(runtime: Watched):
    ids = [await image(runtime) for _ in range(3)]
    agents = [(await runtime.images.run(id))[0] for id in ids]
    listed = (await runtime.request("agent_list_request", {"container_id": "acme"})).data["agents"]
    assert [(one["agent_id"], one["image_id"]) for one in listed] == list(zip(agents, ids, strict=True))
    assert (await runtime.request("agent_list_request", {"container_id": "nobody"})).data["agents"] == []
    got = (await runtime.request("agent_get_request", {"agent_id": agents[0]})).data
    assert got["exists"] and got.get("container_id") == "acme"
    for success in (True, False):
        destroyed = (await runtime.request("agent_destroy_request", {"agent_id": agents[0]})).data
        assert destroyed["success"] is success and "error" not in destroyed
    for container in ("acme", "nobody"):
        assert "error" not in (await runtime.request("agent_destroy_all_request", {"container_id": container})).data
    assert (await runtime.request("agent_list_request", {"container_id": "acme"})).data["agents"] == []
    assert len(runtime.types("session_destroyed")) == len(runtime.types("agent_unregistered")) == 3


async def test_x29_x33_x35_messages_that_come_together_are_answered_in_order(url: str):
    sent_all = asyncio.Event()

    async def patient(request: Any) -> Any:
        await sent_all.wait()
        return say(request.messages[-1].text)

    async with opened(url, model=FunctionModel(patient)) as runtime:
        runtime.on_any(runtime.seen.append)
        await _together(runtime, sent_all)


async def _together(runtime: Watched, sent_all: asyncio.Event) -> None:
    id = await image(runtime)
    sent = await asyncio.gather(
        *(runtime.request("message_send_request", {"image_id": id, "content": f"m{n}"}) for n in range(8))
    )
    assert sum(one.data["queued"] for one in sent) == 7
    sent_all.set()
    await runtime.until("turn_response", 8)
    asked = [one.context.turn_id for one in runtime.seen if one.type == "turn_request"]
    answered = [one.context.turn_id for one in runtime.seen if one.type == "turn_response"]
    assert asked == answered and len(set(asked)) == 8
    assert runtime.types("turn_request", "turn_response") == ["turn_request", "turn_response"] * 8
    messages = await runtime.images.messages(id)
    assert Counter(one["role"] for one in messages) == {"user": 8, "assistant": 8}
    assert len({one["id"] for one in messages}) == 16
    assert runtime.types("conversation_queued") == ["conversation_queued"] * 7


async def test_x34_an_interrupt_ends_the_turn_and_what_is_queued_follows(url: str):
    begun = asyncio.Event()

    async def slow(request: Any) -> Any:
        if request.messages[-1].text == "long":
            begun.set()
            await asyncio.Event().wait()
        return say("short")

    async with opened(url, model=FunctionModel(slow)) as runtime:
        runtime.on_any(runtime.seen.append)
        id = await image(runtime)
        await runtime.send(id, "long")
        await begun.wait()
        await runtime.send(id, "next")
        await runtime.request("agent_interrupt_request", {"image_id": id})
        await runtime.until("turn_response", 2)
        stops = [one.data["stop_reason"] for one in runtime.seen if one.type == "turn_response"]
        assert stops == ["interrupted", "end_turn"]
        reasons = [one.data["reason"] for one in runtime.seen if one.type == "interrupted"]
        assert reasons == ["user_interrupt"]


async def test_x36_a_conversation_goes_on_after_a_restart(url: str):
    model = FunctionModel(lambda request: say(f"{len(request.messages)} messages"))
    async with opened(url, model=model) as runtime:
        id = await image(runtime)
        await runtime.ask(id, "one")
    async with opened(url, model=model) as runtime:
        assert (await runtime.ask(id, "two")).output == "3 messages"
        assert len(await runtime.images.messages(id)) == 4


async def test_an_image_may_run_any_registered_definition(url: str):
    from perdure import tool

    @tool(effect="pure")
    async def add(a: int, b: int) -> int:
        return a + b

    adder = Agent("Adder", model=ScriptedModel(call("add", a=1, b=2), say("Three.")), tools=[add])
    async with opened(url, adder) as runtime:
        runtime.on_any(runtime.seen.append)
        id = await image(runtime, definition="Adder")
        assert (await runtime.ask(id, "1+2?")).output == "Three."
        await runtime.until("turn_response")
        assert "tool_result" in runtime.types()
        kinds = [one["subtype"] for one in await runtime.images.messages(id)]
        assert kinds == ["user", "tool-call", "tool-result", "assistant"]
        for wrong in ({"definition": "Nobody"}, {"definition": "Adder", "system_prompt": "x"}):
            response = await runtime.request("image_create_request", {"container_id": "c", "config": wrong})
            assert response.data["error"]


async def test_content_that_is_none_is_an_error(runtime: Watched):
    id = await image(runtime)
    image_part = {"type": "image", "data": "%%"}
    for content in ("", " ", None, 5, [], [5], [{"type": "video"}], [{"type": "image"}], [image_part], [{}]):
        response = await runtime.request("message_send_request", {"image_id": id, "content": content})
        assert "content" in response.data["error"], content
    response = await runtime.request("message_send_request", {"image_id": id, "content": "x" * 11_000_000})
    assert "MB" in response.data["error"]
    assert await runtime.images.messages(id) == []


async def test_content_may_have_parts_in_either_shape(url: str):
    seen: list[Any] = []

    def look(request: Any) -> Any:
        seen.append(request.messages[-1].content)
        return say("Seen.")

    async with opened(url, model=FunctionModel(look)) as runtime:
        id = await image(runtime)
        flat = {"type": "image", "data": "aGk=", "media_type": "image/gif"}
        nested = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
        await runtime.ask(id, [{"type": "text", "text": "What?"}, flat, nested])
        text, first, second = seen[0]
        assert (text.text, first.data, first.media_type, second.data) == ("What?", b"hi", "image/gif", b"hi")


async def test_x38_ids_do_not_lead_out_of_the_base(runtime: Watched, tmp_path: Path):
    for id in ("../x", "", "a" * 10_000, "ä", "a\0b", "a/b", "..", ".", "~x", "a\nb"):
        response = await runtime.request("image_create_request", {"container_id": id, "config": {}})
        assert response.data["error"], id
        with pytest.raises(InvalidId):
            workdir(tmp_path, id, "img")


@given(st.text(max_size=30), st.text(max_size=30))
def test_x38_whatever_is_accepted_lies_in_its_own_place(container: str, image: str):
    base = Path("/nowhere/base")
    try:
        path = workdir(base, container, image)
    except InvalidId:
        return
    assert path.parent.parent.parent.parent == base and path.name == image and path.parts[-3] == container


async def test_x38_a_folder_of_its_own_and_no_link_out_of_it(runtime: Watched, tmp_path: Path):
    id = await image(runtime)
    await runtime.images.run(id)
    assert (tmp_path / "base" / "containers" / "acme" / "workdirs" / id).is_dir()
    (tmp_path / "base" / "containers" / "evil").symlink_to(tmp_path)
    with pytest.raises(InvalidId, match="link"):
        make_workdir(tmp_path / "base", "evil", "img")


async def test_x40_the_end_is_told_in_order_and_only_once(url: str):
    runtime = opened(url)
    await runtime.open()
    runtime.on_any(runtime.seen.append)
    await runtime.images.run(await image(runtime))
    await runtime.dispose()
    await runtime.dispose()
    ends = [one for one in runtime.types() if one.endswith(("destroyed", "unregistered"))]
    assert ends == ["session_destroyed", "agent_unregistered", "container_destroyed"]


async def test_a_live_agent_ends_by_itself_when_it_has_nothing_to_do(url: str):
    async with opened(url, idle=0.01) as runtime:
        runtime.on_any(runtime.seen.append)
        id = await image(runtime)
        await runtime.ask(id, "x")
        await runtime.until("agent_unregistered")
        assert not runtime.images.live
        assert (await runtime.ask(id, "y")).output == "y!"


async def test_a_stopped_agent_takes_no_message_until_it_is_resumed(runtime: Watched):
    agent = await runtime.images.serving(await image(runtime))
    await agent.stop()
    with pytest.raises(Conflict, match="stopped"):
        await agent.receive("x")
    await agent.resume()
    assert (await (await agent.receive("x")).result()).output == "x!"
    await agent.destroy()
    for verb in (agent.stop, agent.resume):
        with pytest.raises(Conflict, match="destroyed"):
            await verb()
    assert runtime.types("session_resumed") == ["session_resumed"]


async def test_a_run_that_an_image_had_started_is_taken_over_by_who_knows_only_the_store(url: str):
    begun = asyncio.Event()

    async def stuck(_: Any) -> Any:
        begun.set()
        await asyncio.Event().wait()

    async with opened(url, model=FunctionModel(stuck)) as first:
        id = await image(first, system_prompt="Be short.")
        run = await first.send(id, "x")
        await begun.wait()
    async with opened(url, model=FunctionModel(lambda request: say(system(request)))) as second:
        assert (await second.container("acme").log.run(run.id)).definition == f"image:{id}"
        await second.sweep()
        while (await second.container("acme").log.run(run.id)).status != "completed":
            await second.worker.until(second.worker.listen())
        assert [one["content"] for one in await second.images.messages(id)][1] == [
            {"type": "text", "text": "Be short."}
        ]


async def test_errors_say_what_is_wrong_in_python_too(runtime: Watched):
    with pytest.raises(UnknownName):
        await runtime.send("img_x", "x")
    with pytest.raises(DefinitionError, match="colour"):
        await runtime.images.create("acme", colour="red")  # pyright: ignore[reportCallIssue]
