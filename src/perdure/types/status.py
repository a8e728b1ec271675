"""Where a run is, and why it has stopped."""

from typing import Literal, TypeAlias

RunStatus: TypeAlias = Literal["queued", "running", "waiting", "completed", "failed", "cancelled", "parked"]
StopReason: TypeAlias = Literal[
    "answer",
    "router",
    "stop_when",
    "hook",
    "max_iter",
    "max_tokens",
    "budget",
    "deadline",
    "cancelled",
    "interrupted",
    "error",
]
