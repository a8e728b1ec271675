"""What a message of the bus holds: a text, or parts of text, image and file as plain JSON."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, cast

from perdure.types.errors import DefinitionError
from perdure.types.messages import FilePart, ImagePart, Part, TextPart, UserMessage


def read_content(content: Any, id: str) -> UserMessage:
    """Read a message's content.

    Args:
        content: a text, or a list of parts: `{"type": "text", "text": …}`, `{"type": "image", "data": base64,
            "media_type": …}` or `{"type": "file", "data": base64, "media_type": …, "name": …}`. The data may also be in
            `source`, and given by an address, `url`.
        id: the message's id.

    Raises:
        DefinitionError: it is none, says nothing, or a part of it is wrong.
    """
    if isinstance(content, str):
        if not content.strip():
            raise DefinitionError("content is empty; a message needs a text or parts.")
        return UserMessage(content, id)
    parts = cast("list[Any]", content)
    if not isinstance(parts, list) or not parts:  # pyright: ignore[reportUnnecessaryIsInstance]  # from outside
        raise DefinitionError(f"content is a {type(parts).__name__}; give a text or a list of parts.")
    return UserMessage(tuple(_part(one, n) for n, one in enumerate(parts)), id)


def _part(value: Any, place: int) -> Part:
    where = f"content[{place}]"
    if isinstance(value, str):
        return TextPart(value)
    if not isinstance(value, Mapping):
        raise DefinitionError(f"{where} is a {type(value).__name__}; a part is an object with a type.")
    given = cast("Mapping[str, Any]", value)
    kind = given.get("type")
    if kind == "text":
        if not isinstance(given.get("text"), str):
            raise DefinitionError(f"{where}: a text part has a text.")
        return TextPart(given["text"])
    if kind not in ("image", "file"):
        raise DefinitionError(f"{where}: the type {kind!r} is unknown; it is 'text', 'image' or 'file'.")
    source: Any = given.get("source")
    fields: Mapping[str, Any] = {**given, **cast("Mapping[str, Any]", source)} if isinstance(source, Mapping) else given
    media: Any = fields.get("media_type") or ("image/png" if kind == "image" else "application/pdf")
    name: Any = fields.get("name") or fields.get("filename") or "file"
    url, raw = fields.get("url"), fields.get("data")
    if not isinstance(media, str) or not isinstance(name, str):
        raise DefinitionError(f"{where}: media_type and name are texts.")
    data: bytes | None = None
    if isinstance(raw, str):
        try:
            data = base64.b64decode(raw, validate=True)
        except ValueError as error:
            raise DefinitionError(f"{where}: its data are not base64 ({error}).") from error
    elif not (isinstance(url, str) and url.startswith(("http://", "https://"))):
        raise DefinitionError(f"{where}: an {kind} part has data in base64, or an http(s) url.")
    address = cast("str | None", url) if data is None else None
    return ImagePart(data, address, media) if kind == "image" else FilePart(data, address, media, name)
