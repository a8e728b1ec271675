"""What the store keeps of images on SQLite and PostgreSQL, and each command's whole answer: behaviours 10, 35, 37."""

import asyncio
from typing import Any

import pytest

from perdure import Agent, ModelRetry, RunFailed, Runtime, UnknownName, tool
from perdure.db.database import StoreError
from perdure.db.sqlite import SqliteDatabase
from perdure.log.images import Entities, ImageRow
from perdure.testing import ScriptedModel, call, calls, fail, say
from tests.runtime.test_commands import COMMANDS, image, opened

RECORD = {
    *("image_id", "container_id", "session_id", "name", "description", "system_prompt", "model", "mcp_servers"),
    *("definition", "parent_image_id", "metadata", "created_at", "updated_at", "online", "agent_id"),
}
ANSWERS: dict[str, set[str]] = {
    "container_create": {"container_id"},
    "container_get": {"container_id", "exists"},
    "container_list": {"container_ids"},
    "image_create": {"record", "subscriptions"},
    "image_run": {"image_id", "agent_id", "reused"},
    "message_send": {"image_id", "agent_id", "message_id", "queued"},
    "agent_get": {"agent_id", "container_id", "exists"},
    "agent_list": {"agents"},
    "agent_interrupt": {"image_id", "agent_id"},
    "image_update": {"record"},
    "image_list": {"records", "subscriptions"},
    "image_get": {"record", "subscriptions"},
    "image_messages": {"image_id", "messages"},
    "image_fork": {"record", "subscriptions"},
    "image_rewind": {"image_id", "seq"},
    "agent_destroy": {"agent_id", "success"},
    "agent_destroy_all": {"container_id"},
    "image_stop": {"image_id"},
    "image_delete": {"image_id"},
}


async def test_x10_every_command_answers_with_what_is_documented(url: str):
    assert set(ANSWERS) == set(COMMANDS)
    async with opened(url) as runtime:
        data: dict[str, Any] = {"container_id": "acme", "content": "Hi", "updates": {"name": "New"}, "config": {}}
        for command, wanted in ANSWERS.items():
            mine = dict(data)
            if command in ("message_send", "agent_interrupt"):
                mine.pop("agent_id")
            if command == "image_rewind":
                mine.update(to=0, cancel=True)
            told = (await runtime.request(f"{command}_request", mine)).data
            assert set(told) == {"request_id", *wanted}, command
            for record in [told.get("record"), *told.get("records", ())]:
                assert record is None or set(record) == RECORD
            if command == "image_create":
                data["image_id"] = told["record"]["image_id"]
            elif command == "image_run":
                data["agent_id"] = told["agent_id"]
        assert told == {"request_id": told["request_id"], "image_id": data["image_id"]}
        assert [one["parent_image_id"] for one in await runtime.images.list()] == [data["image_id"]]


@tool(effect="pure")
async def add(a: int, b: int) -> int:
    if a < 0:
        raise ModelRetry("not below zero")
    return a + b


async def test_x35_every_kind_of_message_is_kept_once_though_nobody_looks_on(url: str):
    script = (calls(call("add", a=1, b=2), call("add", a=-1, b=2), text="Let me see."), say("Three."))
    model = ScriptedModel(*script, fail(ValueError("broken")))
    async with opened(url, Agent("Adder", model=model, tools=[add])) as runtime:
        id = await image(runtime, definition="Adder")
        await runtime.ask(id, "1+2?")
        with pytest.raises(RunFailed):
            await runtime.ask(id, "And now?")
        await runtime.images.stop(id)
    async with opened(url, Agent("Adder", tools=[add])) as runtime:
        messages = await runtime.images.messages(id)
        assert [one["subtype"] for one in messages] == [
            *("user", "assistant", "tool-call", "tool-call", "tool-result", "tool-result", "assistant"),
            *("user", "error"),
        ]
        assert len({one["id"] for one in messages}) == len(messages)
        assert not runtime.images.live  # they are read while it is offline


async def test_x35_sends_at_the_same_time_lose_nothing(url: str):
    async with opened(url) as runtime:
        id = await image(runtime)
        runs = await asyncio.gather(*(runtime.send(id, f"m{n}") for n in range(20)))
        await asyncio.gather(*(run.result() for run in runs))
        said = [one["content"] for one in await runtime.images.messages(id) if one["role"] == "user"]
        assert sorted(said) == sorted(f"m{n}" for n in range(20))


ODD = ("a?b", "a/b:c", "100%", "-- '; DROP TABLE images", "Zoë 東京 🐇", "idx:images:name:x", " ", "a" * 5_000)


async def test_x37_images_are_created_read_listed_changed_and_deleted(url: str):
    async with opened(url) as runtime:
        made = [await runtime.images.create("acme", name=name, metadata={name: name}) for name in ODD]
        other = await runtime.images.create("other")
        assert [one["name"] for one in await runtime.images.list("acme")] == list(ODD)[::-1]
        for record, name in zip(made, ODD, strict=True):
            assert await runtime.images.get(record["image_id"]) == record and record["metadata"] == {name: name}
        first = made[0]["image_id"]
        changed = await runtime.images.update(first, name="renamed", metadata={"a": 1})
        changed = await runtime.images.update(first, metadata={"b": 2, ODD[0]: None})
        assert changed["metadata"] == {"a": 1, "b": 2} and changed["updated_at"] >= changed["created_at"]
        assert [one["name"] for one in await runtime.images.list("acme")][-1] == "renamed"
        assert [one["name"] for one in await runtime.images.list("acme")].count(ODD[0]) == 0
        for record in made:
            await runtime.images.delete(record["image_id"])
        assert [one["image_id"] for one in await runtime.images.list()] == [other["image_id"]]
        with pytest.raises(UnknownName):
            await runtime.images.update(first, name="x")
    async with opened(url) as runtime:
        assert await runtime.images.get(other["image_id"]) == other


async def test_x37_pages_of_images_are_whole_and_in_order(url: str):
    async with opened(url) as runtime:
        entities = Entities(runtime.db, lambda: 7.0, "owner")  # all at the same time: the id decides
        for n in range(7):
            await entities.make_image(ImageRow(f"img_{n}", "acme", f"sess_{n}", "N"))
        seen: list[str] = []
        page = await entities.images("acme", limit=3)
        while page:
            seen += [one.id for one in page]
            page = await entities.images("acme", after=page[-1], limit=3)
        assert seen == [f"img_{n}" for n in reversed(range(7))]


async def test_x37_containers_are_listed_and_nothing_crosses(url: str):
    async with opened(url) as runtime:
        ids = {name: await image(runtime, name) for name in ("acme", "other")}
        for name, id in ids.items():
            await runtime.ask(id, f"secret of {name}")
            assert [one["image_id"] for one in await runtime.images.list(name)] == [id]
            assert [one.image for one in await runtime.images.agents(name)] == [id]
            assert len(await runtime.container(name).sessions()) == 1
        assert (await runtime.request("container_list_request")).data["container_ids"] == ["acme", "other"]


async def test_x37_a_store_can_be_closed_and_opened_again(url: str):
    runtime = Runtime(url, durability="normal")
    for n in range(3):
        await runtime.open()
        assert len(await runtime.images.list()) == n
        await runtime.images.create("acme")
        await runtime.dispose()


async def test_x37_a_store_in_memory_does_what_a_file_does_until_it_is_closed():
    runtime = Runtime(model=ScriptedModel(say("One."), say("Two.")))  # the address of a runtime is memory: by itself
    assert runtime.db.url == "memory:"
    await runtime.open()
    made = [await runtime.images.create("acme", name=name, metadata={name: name}) for name in ODD]
    assert [one["name"] for one in await runtime.images.list("acme")] == list(ODD)[::-1]
    first, second = made[0]["image_id"], made[1]["image_id"]
    assert (await runtime.images.update(first, name="renamed"))["metadata"] == {ODD[0]: ODD[0]}
    assert (await runtime.ask(first, "Hi")).output == "One."
    fork = (await runtime.images.fork(first))["image_id"]
    await runtime.images.delete(second)
    assert await runtime.images.get(second) is None
    assert [one["role"] for one in await runtime.images.messages(fork)] == ["user", "assistant"]
    assert [one.session_id for one in await runtime.container("acme").search("one")] == [made[0]["session_id"]]
    assert isinstance(runtime.db, SqliteDatabase) and runtime.db.path.exists()
    await runtime.dispose()
    assert not runtime.db.path.parent.exists(), "nothing is left"
    with pytest.raises(StoreError, match="gone when it is closed"):
        await runtime.open()
