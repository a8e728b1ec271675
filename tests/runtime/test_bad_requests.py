"""Whatever is asked of the bus gets one clear answer: any data, any command, any content, any name; nothing hangs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from perdure import DefinitionError, InvalidId, UnknownName
from perdure.runtime.bus import Bus
from perdure.runtime.content import read_content
from perdure.types.envelope import SystemEvent
from perdure.types.messages import UserMessage
from tests.runtime.test_commands import COMMANDS, Watched, image, opened

ODD_IDS = (
    "../x",
    "",
    "a" * 10_000,
    "ä",
    "a\0b",
    "a/b",
    "..",
    ".",
    "/etc/passwd",
    "a\nb",
    "\ud800",
    " ",
    "img_1 ",
    "%2e",
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    (
        "image_id",
        "container_id",
        "at",
        "self",
        "type",
        "text",
        "data",
        "media_type",
        "source",
        "url",
        "name",
        "filename",
    )
)
words = st.sampled_from(("text", "image", "file", "aGk=", "base64", "http://x", "ftp://x", "image/png", ""))
parts = st.lists(st.dictionaries(names, words | plain, max_size=5), max_size=4)
asked = st.dictionaries(
    st.sampled_from(
        ("container_id", "image_id", "agent_id", "content", "config", "updates", "at", "before", "after", "to")
    ),
    plain | parts | st.sampled_from(ODD_IDS),
    max_size=5,
)


@pytest_asyncio.fixture
async def runtime(url: str) -> AsyncIterator[Watched]:
    async with opened(url) as found:
        found.on_any(found.seen.append, priority=1000)
        yield found


@given(plain | parts)
def test_content_is_a_message_or_a_clear_error(content: Any):
    try:
        message = read_content(content, "id")
    except DefinitionError as error:
        assert str(error).startswith("content")
    else:
        assert isinstance(message, UserMessage) and msgspec.json.encode(message)


@pytest.mark.parametrize("url", ["sqlite"], indirect=True)
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from(COMMANDS), asked), min_size=8, max_size=8))
def test_x09_x10_whatever_is_asked_gets_one_answer(url: str, requests: list[tuple[str, dict[str, Any]]]):
    log = logging.getLogger("perdure")
    failed: list[str] = []
    note = logging.Handler()
    note.emit = lambda record: failed.append(record.getMessage())
    note.setLevel(logging.ERROR)
    log.addHandler(note)

    async def ask_all() -> None:
        async with opened(url) as runtime:
            runtime.on_any(runtime.seen.append)
            known = await image(runtime)
            for command, data in requests:
                if isinstance(data.get("image_id"), list):
                    data = {**data, "image_id": known}
                response = await runtime.request(f"{command}_request", data, timeout=20)
                assert response.type == f"{command}_response" and msgspec.json.encode(response)
                id = response.data["request_id"]
                errors = [one for one in runtime.seen if one.type == "system_error" and one.data["request_id"] == id]
                assert len(errors) == ("error" in response.data)
                assert not errors or (errors[0].data["message"] == response.data["error"] != "")
                answers = [one for one in runtime.seen if one.category == "response" and one.data["request_id"] == id]
                assert len(answers) == 1

    try:
        asyncio.run(ask_all())
    finally:
        log.removeHandler(note)
    assert failed == []


async def test_x09_names_of_commands_that_nobody_knows(runtime: Watched):
    for name in ("", "x", "image_get_request", "../image_get", "ä", "a" * 10_000, "\0"):
        response = await runtime.request(f"{name}_request", {})
        assert "Unknown command" in response.data["error"] and response.type == f"{name}_response"
    with pytest.raises(DefinitionError, match="must end with"):
        await runtime.request("image_get", {})


async def test_data_that_are_no_object_are_refused(runtime: Watched):
    wrong: Any
    for wrong in ([1], "x", 5, {"request_id": ["a"]}):
        with pytest.raises(DefinitionError, match="give a"):
            await runtime.request("image_get_request", wrong)
    runtime.emit_command("image_get_request", [1])
    (told,) = (one for one in runtime.seen if one.type == "system_error")
    assert "give an object" in told.data["message"]


async def test_x07_a_response_that_is_nonsense_answers_nobody_and_breaks_nothing():
    bus = Bus()
    waiting = asyncio.create_task(bus.request("ask_request", {"request_id": "r"}))
    await asyncio.sleep(0)
    data: Any
    for data in (None, [1], "x", {}, {"request_id": None}, {"request_id": ["r"]}):
        bus.emit(SystemEvent("ask_response", data, "command", "response", "result"))
    bus.emit_command("ask_response", {"request_id": "r", "n": 1})
    assert (await waiting).data["n"] == 1


async def test_odd_ids_of_images_and_agents_are_unknown_or_refused(runtime: Watched):
    for id in ODD_IDS:
        for command in ("image_run", "image_stop", "image_update", "image_messages"):
            response = await runtime.request(f"{command}_request", {"image_id": id, "updates": {}})
            assert response.data.get("error", ""), (command, id)
        sent = await runtime.request("message_send_request", {"image_id": id, "content": "x"})
        assert sent.data.get("error", "") and sent.data["agent_id"] == ""
        with pytest.raises((UnknownName, InvalidId, DefinitionError)):
            await runtime.send(id, "x")
        with pytest.raises((InvalidId, DefinitionError)):
            await runtime.images.create(id)
    assert await runtime.images.list() == []


async def test_content_that_is_too_large_is_refused_and_the_next_is_answered(runtime: Watched):
    id = await image(runtime)
    huge = "aGkh" * 4_000_000
    for content in ("x" * 11_000_000, [{"type": "image", "data": huge}], [{"type": "text", "text": "y" * 11_000_000}]):
        response = await runtime.request("message_send_request", {"image_id": id, "content": content})
        assert "MB" in response.data.get("error", ""), response.data.get("error", "")[:200]
        assert len(response.data.get("error", "")) < 500
    assert (await runtime.ask(id, "x")).output == "x!"
    wrong: Any = {"system_prompt": "z" * 2_000_000}
    assert (await runtime.request("image_update_request", {"image_id": id, "updates": wrong})).data.get("error", "")
