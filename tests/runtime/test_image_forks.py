"""Images that are forked and rewound, and what an update of an image does to one that is live."""

import asyncio
from typing import Any

import pytest

from perdure import Agent, Conflict, DefinitionError, InvalidId, ModelRequest, Runtime
from perdure.models import resolve
from perdure.testing import FunctionModel, ScriptedEnvironments, say
from perdure.types.messages import TextMessage
from tests.agents.mcp_servers import ODD
from tests.runtime import desk


def echo(request: ModelRequest) -> Any:
    return say(" | ".join(one.text for one in request.messages if isinstance(one, TextMessage)))


def opened(url: str, *definitions: Any, **options: Any) -> Runtime:
    return Runtime(
        url, definitions, durability="normal", timing=desk.QUICK, **{"model": FunctionModel(echo), **options}
    )


async def shown(rt: Runtime, image_id: str) -> list[str]:
    found = [one["content"] for one in await rt.images.messages(image_id)]
    return [one if isinstance(one, str) else one[0]["text"] for one in found]


async def ids(rt: Runtime, image_id: str) -> list[str]:
    return [one["id"] for one in await rt.images.messages(image_id)]


async def test_an_image_is_forked_before_and_after_messages_and_at_records(url: str):
    async with opened(url) as rt:
        config: Any = {"name": "A", "system_prompt": "S", "description": "d", "metadata": {"a": 1}}
        parent = await rt.images.create("acme", **config)
        id = parent["image_id"]
        for text in ("one", "two"):
            await rt.ask(id, text)
        first, said, second, _ = await ids(rt, id)
        whole = await shown(rt, id)
        heard: list[Any] = []
        rt.bus.on("session_forked", lambda event: heard.append(event.data))
        response = await rt.request("image_fork_request", {"image_id": id, "config": {"name": "B"}})
        fork = response.data["record"]
        assert fork is not None and (fork["name"], fork["system_prompt"], fork["parent_image_id"]) == ("B", "S", id)
        assert (
            fork["container_id"] == "acme"
            and fork["metadata"] == {"a": 1}
            and fork["session_id"] != parent["session_id"]
        )
        assert response.data["subscriptions"] == [fork["session_id"]]
        assert heard[0]["new_image_id"] == fork["image_id"]
        assert (heard[0]["original_session_id"], heard[0]["new_session_id"]) == (
            parent["session_id"],
            fork["session_id"],
        )
        assert await shown(rt, fork["image_id"]) == whole
        assert (await rt.ask(fork["image_id"], "three")).output == " | ".join(["S", *whole, "three"])
        assert await shown(rt, id) == whole, "the other one does not change"
        changed: Any = {"system_prompt": "T"}
        before = await rt.images.fork(id, before=second, **changed)
        assert (await rt.ask(before["image_id"], "new")).output == " | ".join(["T", *whole[:2], "new"])
        for place in (first, said):
            after = await rt.images.fork(id, after=place)
            assert await shown(rt, after["image_id"]) == whole[:2]
        beginning = await rt.images.fork(id, before=first)
        assert await shown(rt, beginning["image_id"]) == []
        assert (await rt.ask(beginning["image_id"], "x")).output == "S | x"
        assert await shown(rt, (await rt.images.fork((await rt.images.fork(id))["image_id"]))["image_id"]) == whole
        records = await rt.container("acme").session(parent["session_id"]).records()
        at = await rt.images.fork(id, records[-1].seq)
        assert await shown(rt, at["image_id"]) == whole
    async with opened(url) as rt:
        assert await shown(rt, fork["image_id"]) == [*whole, "three", " | ".join(["S", *whole, "three"])]
        assert len(await rt.images.list("acme")) == 9


async def test_an_image_is_rewound_while_it_is_live_and_after_a_restart(url: str):
    async with opened(url) as rt:
        id = (await rt.images.create())["image_id"]
        for text in ("one", "two", "three"):
            await rt.ask(id, text)
        whole, places = await shown(rt, id), await ids(rt, id)
        heard: list[str] = []
        done = asyncio.Event()

        def hear(event: Any) -> None:
            heard.append(event.type)
            done.set()

        rt.bus.on(["session_rewound", "error_received"], hear)
        response = await rt.request("image_rewind_request", {"image_id": id, "before": places[4]})
        assert response.data["image_id"] == id and response.data["seq"] > 0
        async with asyncio.timeout(30):
            await done.wait()
        assert heard == ["session_rewound"]
        assert await shown(rt, id) == whole[:4]
        assert (await rt.ask(id, "other")).output == " | ".join([*whole[:4], "other"])
    async with opened(url) as rt:
        await rt.images.rewind(id, after=places[1])
        assert await shown(rt, id) == whole[:2]
        assert (await rt.ask(id, "again")).output == "one | one | again"
        await rt.images.rewind(id, 0)
        assert await shown(rt, id) == [] and (await rt.ask(id, "anew")).output == "anew"


async def test_what_cannot_be_forked_or_rewound_is_said(url: str):
    gate = asyncio.Event()

    async def slow(request: ModelRequest) -> Any:
        await gate.wait()
        return say("at last")

    async with opened(url, Agent("Slow", model=FunctionModel(slow))) as rt:
        id = (await rt.images.create(definition="Slow"))["image_id"]
        for kind in ("fork", "rewind"):
            name: Any = f"image_{kind}_request"
            for given, error in (
                ({"image_id": "nobody", "before": "x"}, "no image"),
                ({"image_id": id, "before": "x"}, "no message named 'x'"),
                ({"image_id": id, "before": "x", "after": "y"}, "Name one place"),
            ):
                response = await rt.request(name, given)
                assert error in response.data["error"], response.data
        with pytest.raises(DefinitionError, match="Name one place"):
            await rt.images.rewind(id)
        for config, error in (({"colour": 1}, "colour"), ({"system_prompt": "x"}, "does not go with a definition")):
            response = await rt.request("image_fork_request", {"image_id": id, "config": config})  # type: ignore[typeddict-item]
            assert error in response.data["error"] and response.data["record"] is None
        turn = await rt.send(id, "wait")
        message = (await ids(rt, id))[0]
        with pytest.raises(Conflict, match="goes on"):
            await rt.images.fork(id, after=message)
        with pytest.raises(Conflict, match="while its run"):
            await rt.images.rewind(id, before=message)
        before = await rt.images.fork(id, before=message)
        assert await shown(rt, before["image_id"]) == []
        inside = await rt.images.fork(id)
        assert await shown(rt, inside["image_id"]) == ["wait"]
        await rt.images.rewind(id, before=message, cancel=True)
        assert await shown(rt, id) == [] and (await rt.container("default").log.run(turn.id)).status == "cancelled"
        gate.set()
        assert (await rt.ask(id, "now")).output == "at last"
        with pytest.raises(InvalidId):
            await rt.images.fork(id, 10_000)
        said = (await ids(rt, id))[1]
        with pytest.raises(DefinitionError, match="no message of the user"):
            await rt.images.rewind(id, before=said)


async def test_deleting_an_image_leaves_those_that_go_on_from_it(url: str):
    async with opened(url) as rt:
        first = await rt.images.create()
        await rt.ask(first["image_id"], "secret")
        second = await rt.images.fork(first["image_id"])
        await rt.ask(second["image_id"], "more")
        third = await rt.images.fork(second["image_id"])
        whole = await shown(rt, third["image_id"])
        for one in (first, second):
            await rt.images.delete(one["image_id"])
            assert await rt.images.get(one["image_id"]) is None
            assert await shown(rt, third["image_id"]) == whole
        assert (await rt.ask(third["image_id"], "still")).output.endswith("| still")
        await rt.images.delete(third["image_id"])
        for one in (first, second, third):
            records = await rt.session(one["session_id"]).records()
            assert records and {record.kind for record in records} <= {"erased", "forked"}, "with the last one all goes"


async def test_an_environment_that_keeps_the_conversation_itself_begins_anew(url: str):
    factory = ScriptedEnvironments()
    async with opened(url, environment_factory=factory) as rt:
        id = (await rt.images.create(metadata={"kept": 1}))["image_id"]
        await rt.ask(id, "x")
        captured = factory.created[0].config.on_session_id_captured
        assert captured is not None
        captured("own-7")
        await desk.until(lambda: noted(rt, id))
        await rt.ask((await rt.images.fork(id))["image_id"], "in the fork")
        await rt.images.rewind(id, 0)
        record = await rt.images.get(id)
        assert record is not None and record["metadata"] == {"kept": 1} and not record["online"]
        await rt.ask(id, "y")
    assert [one.config.resume_session_id for one in factory.created] == [None, None, None]


async def noted(rt: Runtime, image_id: str) -> bool:
    record = await rt.images.get(image_id)
    return record is not None and "environment_session_id" in record["metadata"]


# -- updates of an image that is live ------------------------------------------------------------------------------


async def test_x15_an_update_of_the_prompt_acts_on_a_live_agent_and_after_a_restart(url: str):
    async with opened(url) as rt:
        id = (await rt.images.create(system_prompt="One"))["image_id"]
        assert (await rt.ask(id, "x")).output == "One | x"
        agent = (await rt.images.get(id) or {})["agent_id"]
        await rt.images.update(id, system_prompt="Two")
        assert (await rt.ask(id, "y")).output == "Two | x | One | x | y"
        assert (await rt.images.get(id) or {})["agent_id"] == agent, "it is still the same live agent"
    async with opened(url) as rt:
        await rt.images.update(id, system_prompt=None)
        assert (await rt.ask(id, "z")).output.startswith("x | One | x | y")


async def test_x15_an_update_of_the_model_acts_on_a_live_agent_and_after_a_restart(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    makers: dict[str, Any] = vars(resolve)["_PROVIDERS"]
    monkeypatch.setitem(makers, "openai", lambda name, **_: FunctionModel(lambda _: say(f"by {name}")))
    vars(resolve)["_named"].cache_clear()
    async with opened(url) as rt:
        id = (await rt.images.create(model="openai:a"))["image_id"]
        assert (await rt.ask(id, "x")).output == "by a"
        await rt.request("image_update_request", {"image_id": id, "updates": {"model": "openai:b"}})
        assert (await rt.ask(id, "x")).output == "by b"
        await rt.images.update(id, model="openai:a")
    async with opened(url) as rt:
        assert (await rt.ask(id, "x")).output == "by a"
        await rt.images.update(id, model=None)
        assert (await rt.ask(id, "the runtime's")).output.endswith("the runtime's")
    vars(resolve)["_named"].cache_clear()


async def test_x15_an_update_of_mcp_servers_acts_on_a_live_agent_and_after_a_restart(url: str):
    def use(request: ModelRequest) -> Any:
        names = sorted(one.name for one in request.tools)
        return say(f"{len(names)} {names[:1]}")

    server: Any = {"odd": {"command": ODD[0], "args": [*ODD[1:]]}}
    async with opened(url, model=FunctionModel(use)) as rt:
        id = (await rt.images.create())["image_id"]
        assert (await rt.ask(id, "x")).output == "0 []"
        await rt.images.update(id, mcp_servers=server)
        with_tools = (await rt.ask(id, "x")).output
        assert not with_tools.startswith("0 ")
    async with opened(url, model=FunctionModel(use)) as rt:
        assert (await rt.ask(id, "x")).output == with_tools
        await rt.images.update(id, mcp_servers=None)
        assert (await rt.ask(id, "x")).output == "0 []"
