"""Whole messages as the bus tells them: of the user, the assistant, its tool calls, their results, and errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from perdure.types import events as ev
from perdure.types.base import decode_json, encode_json
from perdure.types.messages import Message, TextMessage
from perdure.types.records import ErrorInfo
from perdure.types.usage import Usage


def user_id(run_id: str) -> str:
    """Say which id the user's message of a turn has."""
    return f"msg_{run_id}"


def user_message(id: str, said: Sequence[Message], now: int) -> dict[str, Any]:
    """Tell what a user said: a text, or its parts."""
    parts: list[dict[str, Any]] = []
    for one in said:
        if isinstance(one, TextMessage):
            plain: Any = decode_json(encode_json(one.content))
            parts += [{"type": "text", "text": plain}] if isinstance(plain, str) else plain
    only_text = all(part.get("type") == "text" for part in parts)
    content: Any = "\n".join(part["text"] for part in parts) if only_text else parts
    return {"id": id, "role": "user", "subtype": "user", "content": content, "timestamp": now}


def assistant_message(id: str, text: str, now: int, agent: str | None, *, interrupted: bool) -> dict[str, Any]:
    """Tell what the model said as text."""
    said: dict[str, Any] = {
        "id": id,
        "role": "assistant",
        "subtype": "assistant",
        "content": [{"type": "text", "text": text}],
        "timestamp": now,
    }
    if agent is not None:
        said["agent"] = agent
    if interrupted:
        said["interrupted"] = True
    return said


def tool_call_message(parent_id: str, call_id: str, name: str, input: Any, now: int) -> dict[str, Any]:
    """Tell one tool call of a message."""
    call = {"type": "tool-call", "id": call_id, "name": name, "input": input}
    return {
        "id": f"{parent_id}/{call_id}",
        "role": "assistant",
        "subtype": "tool-call",
        "tool_call": call,
        "content": [call],
        "parent_id": parent_id,
        "timestamp": now,
    }


def tool_result_message(id: str, event: ev.ToolFinished, name: str, now: int) -> dict[str, Any]:
    """Tell what a tool gave."""
    value = event.result
    if event.outcome == "denied":
        output: dict[str, Any] = {"type": "execution-denied", "reason": _error_text(value)}
    elif event.is_error:
        output = {"type": "error-text", "value": _error_text(value)}
    else:
        fields = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        data: Any = fields["data"] if set(fields) == {"data"} else cast("Any", value)
        output = {"type": "text" if isinstance(data, str) else "json", "value": data}
    return {
        "id": id,
        "role": "tool",
        "subtype": "tool-result",
        "tool_call_id": event.call_id,
        "tool_result": {"type": "tool-result", "id": event.call_id, "name": name, "output": output},
        "timestamp": now,
    }


def error_message(id: str, error: ErrorInfo, now: int) -> dict[str, Any]:
    """Tell that a turn failed."""
    return {
        "id": id,
        "role": "error",
        "subtype": "error",
        "content": error.message,
        "error_code": error.type,
        "timestamp": now,
    }


def usage(spent: Usage) -> dict[str, Any]:
    """Tell what was consumed, with the names of the source."""
    return {
        "input_tokens": spent.input_tokens,
        "output_tokens": spent.output_tokens,
        "total_tokens": spent.total_tokens,
    }


def _error_text(value: Any) -> str:
    """A tool's error as text: its message, whatever its shape."""
    error: Any = cast("dict[str, Any]", value).get("error", value) if isinstance(value, dict) else value
    message: Any = cast("dict[str, Any]", error).get("message") if isinstance(error, dict) else error
    return message if isinstance(message, str) else encode_json(value).decode()
