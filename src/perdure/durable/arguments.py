"""What a step was called with, as a hash that is kept: the same step with other arguments is another step."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from perdure.types.base import encode_json, plain


def arguments_hash(arguments: Any) -> str:
    """Hash what a step is called with.

    Raises:
        Unserialisable: something of it has no JSON form.
    """
    return blake2b(encode_json(plain(arguments, "arguments")), digest_size=8).hexdigest()
