"""The options of a run, declared once for every door."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Literal, TypedDict

from typing_extensions import TypeVar

from perdure.agents.budget import Budget
from perdure.agents.state import State
from perdure.models.model import Model, ModelSettings
from perdure.types.messages import Message

S = TypeVar("S", default=Any)


class FunctionOptions(TypedDict, total=False):
    """What may be said about one run, also of a function; all of it is optional.

    `session_id` is the conversation to continue, `user_id` whom it serves, `run_id` makes a repetition the same run;
    `model` and `settings` win over the definition's; `resources` are live objects for `ctx.use`; `budget` and
    `deadline` (seconds from now) bound it; `on_busy` says what happens if the session is at work.
    """

    session_id: str | None
    user_id: str | None
    run_id: str | None
    model: Model | str | None
    settings: ModelSettings | None
    resources: Sequence[Any]
    budget: Budget | None
    deadline: float | None
    on_busy: Literal["queue", "reject", "interrupt"]


class RunOptions(FunctionOptions, Generic[S], total=False):
    """What may be said about one run of an agent or a network, besides what may be said about any.

    `state` is the data to start from, or a whole `State`; `messages` what was said before; `session_budget` bounds all
    runs of its session together; `max_iter`, `tool_choice` and `router` win over the definition's.
    """

    state: S | State[S] | None
    messages: Sequence[Message]
    session_budget: Budget | None
    max_iter: int | None
    tool_choice: str
    router: Any


OPTIONS = frozenset(RunOptions.__annotations__)
"""What may be said about a run."""

NOT_FOR_FUNCTIONS = OPTIONS - FunctionOptions.__annotations__.keys()
"""What a function's run takes none of."""
