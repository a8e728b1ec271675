"""Program 3: structured output from text and an image."""

import struct
import zlib
from decimal import Decimal
from pathlib import Path

import pytest
from pydantic import BaseModel

from perdure import Agent, ImagePart, OutputInvalid, RunFailed, TextMessage, TextPart, image, text
from perdure.testing import ScriptedModel, say


class Invoice(BaseModel):
    total: Decimal
    currency: str


class Refusal(BaseModel):
    why: str


extract = Agent("Extract", output_type=Invoice, model="openai:gpt-5-mini")
either = Agent("E", output_type=(Invoice, Refusal))


def png() -> bytes:
    """One white pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0\xff")) + chunk(b"IEND", b"")
    )


async def test_structured_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bill.png").write_bytes(png())
    model = ScriptedModel(say('{"total": "12.50", "currency": "EUR"}'))
    result = await extract.run([text("Read this"), image("bill.png")], model=model)
    assert result.output.total == Decimal("12.50")
    assert result.output == Invoice(total=Decimal("12.50"), currency="EUR")
    request = model.requests[0]
    assert request.messages == (TextMessage("user", (TextPart("Read this"), ImagePart(png(), media_type="image/png"))),)
    assert request.output is not None and set(request.output.schema["properties"]) == {"total", "currency"}


async def test_one_of_two_types() -> None:
    script = ScriptedModel(
        say('{"result": {"total": "3", "currency": "EUR"}}'), say('{"result": {"why": "This is no bill."}}')
    )
    assert (await either.run("Read this", model=script)).output == Invoice(total=Decimal(3), currency="EUR")
    assert (await either.run("Read this", model=script)).output == Refusal(why="This is no bill.")


async def test_an_answer_that_does_not_fit_is_asked_for_again() -> None:
    model = ScriptedModel(say('{"total": "a lot"}'), say('{"total": 1, "currency": "EUR"}'))
    assert (await extract.run("Read this", model=model)).output.total == 1
    assert "currency" in str(model.requests[1].messages[-1].content)


async def test_it_is_given_up_in_the_end() -> None:
    with pytest.raises(RunFailed) as caught:
        await extract.run("Read this", model=ScriptedModel(say("I cannot."), repeat=True))
    assert isinstance(caught.value.__cause__, OutputInvalid)
