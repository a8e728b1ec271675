"""What a run can wait for, and how it is answered."""

from __future__ import annotations

from typing import Any, TypeAlias

from perdure.types.base import Base


class Approval(Base, tag="approval"):
    """A person must allow a tool call with exactly these arguments.

    `args` are the validated arguments after the hooks; approving runs the tool with just these. `run_id` is the run
    that asks, which may be a child of the one that was started.
    """

    id: str
    tool: str
    args: dict[str, Any]
    run_id: str
    agent: str = ""
    call_id: str = ""
    reason: str = ""


Wait: TypeAlias = Approval


class Approve(Base, tag="approve"):
    """Allow what was asked; `by` is who allowed it."""

    by: str | None = None


class Deny(Base, tag="deny"):
    """Refuse what was asked; the model is told why."""

    why: str = ""
    by: str | None = None


class Answer(Base, tag="answer"):
    """Answer a question with a text."""

    text: str
    by: str | None = None


WaitAnswer: TypeAlias = Approve | Deny | Answer
