"""What both of OpenAI's APIs share: the SDK's client, sending a body, and small parts of a request."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from perdure.models.call import CONNECT_TIMEOUT
from perdure.models.model import Reasoning, level
from perdure.models.object_schema import object_schema
from perdure.models.schema import openai_strict
from perdure.types.base import decode_json, encode_json
from perdure.types.messages import FilePart, ImagePart


def connect(sdk: Any, key: str, base_url: str | None, headers: Mapping[str, str], *, ours: bool) -> Any:
    """Make the SDK's client; only OpenAI itself learns its organisation and project from the environment."""
    extra: dict[str, Any] = dict(headers)
    if not ours:
        extra = {"OpenAI-Organization": sdk.omit, "OpenAI-Project": sdk.omit, **extra}
    # The SDK insists on some key; a server that needs none does not look at it.
    return sdk.AsyncOpenAI(api_key=key or "none", base_url=base_url, max_retries=0, default_headers=extra)


async def post(sdk: Any, client: Any, path: str, body: dict[str, Any], timeout: float) -> Any:
    """Send a body just as it is and stream back plain JSON values: the SDK's own types would cost and drop fields."""
    limit = sdk.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
    return await client.post(
        path, body=body, options={"timeout": limit}, cast_to=object, stream=True, stream_cls=sdk.AsyncStream[object]
    )


def dialect_of(schema: Mapping[str, Any], *, strict: bool) -> tuple[dict[str, Any], bool]:
    """Write a JSON schema for this provider.

    Returns:
        The schema, not to be changed; and whether it is strict.
    """
    return _dialect_of(encode_json(schema), strict)


@lru_cache(1024)  # the same few schemas come with every inference
def _dialect_of(schema: bytes, strict: bool) -> tuple[dict[str, Any], bool]:
    plain = decode_json(schema)
    enforced = openai_strict(plain) if strict else None
    return (object_schema(plain), False) if enforced is None else (enforced, True)


def lay_over(body: dict[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a user's own parameters over the body; None takes one away."""
    body |= extra
    return {key: value for key, value in body.items() if value is not None or key not in extra}


def address(part: ImagePart | FilePart) -> str:
    """The address of an image or file; one that is given by its bytes becomes a data: address."""
    if part.data is None:
        return part.url or ""
    return f"data:{part.media_type};base64,{base64.b64encode(part.data).decode()}"


def is_text(media_type: str) -> bool:
    """Whether a file of this type can be read as it is."""
    return media_type.startswith("text/") or media_type in ("application/json", "application/xml")


def arguments_text(value: Mapping[str, Any] | str) -> str:
    """A call's arguments as the model wrote them; what was no JSON object goes back as it was."""
    return value if isinstance(value, str) else encode_json(value).decode()


def effort(name: str, reasoning: Reasoning) -> str:
    """The nearest name for how hard to think; the first reasoning models cannot do without thinking at all."""
    wanted = level(reasoning)
    if wanted == "none":
        base = name.rsplit("/", 1)[-1]
        if base in ("gpt-5", "gpt-5-mini", "gpt-5-nano") or base.startswith("gpt-5-20"):
            return "minimal"
        if base.startswith(("o1", "o3", "o4")):
            return "low"
    return wanted
