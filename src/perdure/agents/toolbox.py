"""The tools of one inference, as the run calls them and as the model sees them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple

from perdure.agents.tool import Tool
from perdure.models.model import ToolSpec
from perdure.types.base import encode_json
from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    from perdure.agents.output import Output


class Toolbox(NamedTuple):
    """The tools of one inference: by name, as a model sees them, and the hash and text of that."""

    tools: Mapping[str, Tool[..., Any, Any]]
    specs: tuple[ToolSpec, ...]
    digest: str | None
    text: str


EMPTY_TOOLBOX = Toolbox({}, (), None, "")


def text_hash(text: str) -> str:
    """The hash under which a text is kept once."""
    return blake2b(text.encode(), digest_size=12).hexdigest()


def make_toolbox(tools: Sequence[Tool[..., Any, Any]], agent: str, output: Output | None) -> Toolbox:
    """Collect the tools of an inference."""
    by_name: dict[str, Tool[..., Any, Any]] = {}
    for one in tools:
        if not isinstance(one, Tool):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(
                f"Agent({agent!r}): a toolset listed {one!r}, which is no tool; make it one by tool(…)."
            )
        if one.name in by_name:
            raise DefinitionError(
                f"Agent({agent!r}): two tools are named {one.name!r}; put one into a toolset and use .prefixed(…)."
            )
        by_name[one.name] = one
    specs = tuple(one.spec for one in by_name.values())
    if output is not None:
        specs = (*specs, output.tool)
    if not specs:
        return EMPTY_TOOLBOX
    text = encode_json(specs).decode()
    return Toolbox(by_name, specs, text_hash(text), text)
