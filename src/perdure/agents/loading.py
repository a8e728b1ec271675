"""From what a run has kept as its output to the object that its caller gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.agents.function_definition import FunctionDefinition
from perdure.types.base import Json, encode_json, plain
from perdure.types.records import RunFinished


def loader(definition: Any, has_output: bool, stop_reason: str) -> Callable[[Any], Any] | None:
    """How the kept output becomes the object that the user gets; None if it is what is kept."""
    if isinstance(definition, FunctionDefinition):
        return definition.load if has_output else None
    if definition.output_type is str:
        return _as_text if has_output else None
    from perdure.agents.output import Output
    from perdure.types.errors import ModelRetry, OutputInvalid

    def load(value: Any) -> Any:
        try:
            output: Any = definition.cached("output", lambda: Output(definition.output_type))
            if has_output:
                return output.load(value)
            return output.load(output.check_text(value))
        except (ModelRetry, ValueError) as error:
            raise OutputInvalid(
                f"{definition!r} ended ({stop_reason}) without an answer of its output type; .text has what was said."
            ) from error

    return load


def output_of(definition: Any, finished: RunFinished) -> Json:
    """What a completed run has answered, as plain JSON that `load_output` reads.

    Raises:
        OutputInvalid: it has ended without an answer of its output type.
    """
    load = loader(definition, finished.has_output, finished.stop_reason)
    if load is None or isinstance(definition, FunctionDefinition):
        return finished.output
    value = load(finished.output)
    return finished.output if finished.has_output and definition.output_type is not str else plain(value, "output")


def load_output(definition: Any, value: Json) -> Any:
    """Make the object that the user gets of what `output_of` gave."""
    if isinstance(definition, FunctionDefinition):
        return definition.load(value)
    load = None if definition.output_type is str else loader(definition, True, "answer")
    return value if load is None else load(value)


def _as_text(value: Any) -> str:
    return encode_json(value).decode()
