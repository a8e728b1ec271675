"""What each generation of Claude takes, told by the model's name. Pure.

Parameters came and went: thinking by a budget, then adaptive, then always on; sampling, prefill and forced tools were
taken away again. A name that is not Claude's is a server that speaks the same wire, of which only the basics are asked.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeAlias

from perdure.models.model import ModelSettings, level
from perdure.types.base import Base

Body: TypeAlias = "dict[str, Any]"

_NAME = re.compile(r"claude-(?:([a-z]+)-)?(\d+)(?:[-.](\d{1,2})(?!\d))?(?:-([a-z]+))?")
_SMALLEST_BUDGET = 1024
_ANSWER = 8192  # what is left for the answer beside a thinking budget


class Claude(Base):
    """What one model takes.

    Args:
        max_tokens: how long an answer may be if nobody says so; the API insists on a limit.
        thinking: "budget" in tokens, "adaptive" by effort, "always" on and by effort, or "none".
        off: how thinking is switched off where it is on by default.
        structured: whether answers can be forced into a schema.
        prefill: whether an answer can be begun for the model.
        sampling: whether it has a temperature.
        forced: whether a tool can be forced.
        bound: whether thoughts are only taken back after just the prompt that they were made for.
    """

    max_tokens: int = 32_000
    thinking: Literal["none", "budget", "adaptive", "always"] = "adaptive"
    off: Body | None = None
    structured: bool = True
    prefill: bool = False
    sampling: bool = False
    forced: bool = True
    bound: bool = False


_DISABLED = {"type": "disabled"}
_OTHER = Claude(max_tokens=8192, thinking="budget", structured=False, sampling=True)


def claude(name: str) -> Claude:
    """Tell by its name what a model takes; a newer one than is known counts as the newest."""
    if "mythos" in name or "fable" in name:
        return Claude(thinking="always", forced=False, bound=True)
    found = _NAME.search(name)
    if found is None:
        return Claude(off=_DISABLED) if "claude" in name else _OTHER
    family = found[1] or found[4] or ""
    version = (int(found[2]), int(found[3] or 0))
    if version >= (5, 5):
        if family == "haiku":
            return Claude(off=_DISABLED, bound=True)
        off = {"type": "between_tools"} if family == "sonnet" else None
        return Claude(thinking="always", off=off, forced=False, bound=True)
    if version >= (4, 6):
        return Claude(off=_DISABLED, sampling=version == (4, 6))
    if version >= (3, 7):
        return Claude(thinking="budget", structured=version >= (4, 5), prefill=True, sampling=True)
    tokens = 8192 if version >= (3, 5) else 4096
    return Claude(max_tokens=tokens, thinking="none", structured=False, prefill=True, sampling=True)


def thinking_body(model: Claude, settings: ModelSettings, *, forced: bool, may_think: bool) -> Body:
    """Write how hard to think, which a forced tool excludes, and how long the answer may be."""
    body: Body = {"max_tokens": settings.max_tokens or model.max_tokens}
    wanted = settings.reasoning
    if forced:
        return body | ({"thinking": model.off} if model.off else {})
    if wanted is None or model.thinking == "none":
        return body
    if wanted == "none" or (isinstance(wanted, int) and wanted <= 0):
        if model.off is not None:
            return body | {"thinking": model.off}
        return body | ({"output_config": {"effort": "low"}} if model.thinking == "always" else {})
    if model.thinking != "budget":
        # Newer models keep their thoughts to themselves unless they are asked for them.
        thinking = {"type": "adaptive", "display": "summarized"}
        return body | {"thinking": thinking, "output_config": {"effort": level(wanted)}}
    if not may_think:
        return body
    budget = max(_budget(wanted), _SMALLEST_BUDGET)
    if settings.max_tokens is None:
        body["max_tokens"] = max(model.max_tokens, budget + _ANSWER)
    elif budget >= settings.max_tokens:
        budget = max(settings.max_tokens // 2, _SMALLEST_BUDGET)
        if budget >= settings.max_tokens:  # there is no room for a thought
            return body
    return body | {"thinking": {"type": "enabled", "budget_tokens": budget}}


def _budget(wanted: str | int) -> int:
    return wanted if isinstance(wanted, int) else {"low": 2048, "medium": 8192}.get(wanted, 16_384)
