"""Images and documents as parts of a message: from a file, from bytes, or from an address."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

import base64
import mimetypes
import re
from pathlib import Path

from perdure.types.errors import DefinitionError
from perdure.types.messages import DOCUMENT, IMAGE, FilePart, ImagePart


def image(source: str | bytes | Path, *, media_type: str | None = None) -> ImagePart:
    """Make an image part from a file, its bytes, or an address.

    Args:
        source: a path, the bytes, or a string that is an `http(s):` or `data:` address or a path.
        media_type: such as `image/png`; guessed from the name if not given.

    Raises:
        DefinitionError: the file cannot be read.
    """
    data, url, kind, _ = _load(source, media_type, IMAGE)
    return ImagePart(data, url, kind)


def file(source: str | bytes | Path, *, media_type: str | None = None, name: str | None = None) -> FilePart:
    """Make a file part from a file, its bytes, or an address; arguments and errors as for `image`."""
    data, url, kind, found = _load(source, media_type, DOCUMENT)
    return FilePart(data, url, kind, name or found or "file")


def _load(
    source: str | bytes | Path, media_type: str | None, default: str
) -> tuple[bytes | None, str | None, str, str | None]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), None, media_type or default, None
    if not isinstance(source, (str, Path)):
        raise DefinitionError(f"The source is a {type(source).__name__}; give a path, bytes, or an address.")
    if isinstance(source, str) and source[:5].lower() == "data:":
        return _decode_data(source, media_type, default)
    if isinstance(source, str) and source[:8].lower().startswith(("http://", "https://")):
        name = _ADDRESS_END.split(source.partition("//")[2], maxsplit=1)[0].partition("/")[2].rpartition("/")[2]
        return None, source, media_type or mimetypes.guess_type(name)[0] or default, name
    path = Path(source)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DefinitionError(f"Cannot read {str(path)[:200]!r}: {why}. Give a readable file.") from error
    return data, None, media_type or mimetypes.guess_type(path.name)[0] or default, path.name


_ADDRESS_END = re.compile("[?#]")


def _decode_data(address: str, media_type: str | None, default: str) -> tuple[bytes, None, str, None]:
    head, _, body = address[5:].partition(",")
    kind, *parameters = head.split(";")
    try:
        if "base64" not in parameters:
            raise ValueError("it has no ;base64")
        data = base64.b64decode("".join(body.split()), validate=True)
    except ValueError as error:
        raise DefinitionError(
            f"The data: address cannot be read ({error}). It must be base64-encoded, such as data:image/png;base64,…"
        ) from error
    return data, None, media_type or kind or default, None
