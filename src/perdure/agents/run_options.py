"""A run's options: checked, kept with the run, and read again in another process."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, cast

import msgspec

from perdure.agents.budget import Budget
from perdure.agents.checks import check_limit, check_model, check_settings, of_kind
from perdure.agents.definition import AgentDefinition, Definition, NetworkDefinition, check_router
from perdure.agents.env import Env
from perdure.agents.history import HistoryAdapter
from perdure.agents.options import OPTIONS
from perdure.agents.state import State
from perdure.agents.state_kind import StateKind
from perdure.durable.kernel import Kernel
from perdure.models.model import Model, ModelSettings
from perdure.types.base import plain
from perdure.types.errors import DefinitionError, NeedsRuntime
from perdure.types.ids import check_id
from perdure.types.messages import Message
from perdure.types.records import RunStarted
from perdure.types.usage import Usage

BOUNDED = "bounded"
"""Kept with the options of a run that budgets above it bound; it is none of them."""
DICT_KIND: StateKind[Any] = StateKind.of(dict)


def keep_options(options: Mapping[str, Any], kind: StateKind[Any]) -> dict[str, Any]:
    """What of the options outlasts this process."""
    kept = {name: options[name] for name in ("max_iter", "tool_choice", "deadline") if name in options}
    if isinstance(options.get("model"), str):
        kept["model"] = options["model"]
    for name in ("budget", "session_budget", "settings"):
        if options.get(name) is not None:
            kept[name] = plain(options[name], name)
    if kind is not DICT_KIND and options.get("state") is not None:
        given: Any = options["state"]
        data: Any = given.__class__ if not isinstance(given, State) else cast("State[Any]", given).data.__class__
        kept["state_type"] = f"{data.__module__}:{data.__qualname__}"
    return kept


def read_kept(started: RunStarted) -> dict[str, Any]:
    """Read what was kept of a run's options.

    Raises:
        ImportError: the type of its state is not where it was.
        AttributeError: the same, inside its module.
    """
    options = {name: value for name, value in started.options.items() if name not in ("thread", BOUNDED)}
    for name, kind in (("budget", Budget), ("session_budget", Budget), ("settings", ModelSettings)):
        if name in options:
            options[name] = msgspec.convert(options[name], kind, strict=False)
    if "state_type" in options:
        module, _, name = options.pop("state_type").partition(":")
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        options["state"] = StateKind.of(found).load(started.state)
    return options


def _said_in(state: State[Any]) -> tuple[Message, ...]:
    """What was said according to a state: its messages, then what its results have beyond them.

    A state that a run has left holds what its results say among the messages too.
    """
    messages = state.messages
    beyond: list[Message] = []
    place = 0
    for result in state.results:
        found = place
        for one in result.messages:
            while found < len(messages) and messages[found] != one:
                found += 1
            found += 1
        if found <= len(messages):
            place = found
        else:
            beyond += result.messages
    return (*messages, *beyond)


def read_state(
    definition: Definition, options: Mapping[str, Any], *, lasts: bool
) -> tuple[StateKind[Any], Any, tuple[Message, ...], tuple[Any, ...], str | None]:
    """Work out what a run starts from: type and data of the state, history, earlier results, thread."""
    if not options and isinstance(definition, AgentDefinition):
        return DICT_KIND, {}, (), (), None
    given: Any = options.get("state") if options else None
    history: tuple[Message, ...] = tuple(options["messages"]) if options and options.get("messages") else ()
    results: tuple[Any, ...] = ()
    thread_id: str | None = None
    if isinstance(given, State):
        state = cast("State[Any]", given)
        if history and (state.messages or state.results):
            raise DefinitionError("messages= and a State with messages or results were given; give one of the two.")
        results = state.results
        history = history or _said_in(state)
        thread_id = state.thread_id
        given = state.data
        session_id = options.get("session_id")
        if session_id is not None and thread_id is not None and session_id != thread_id:
            raise DefinitionError(
                f"session_id={session_id!r} and State(thread_id={thread_id!r}) differ; they are two words for one id."
            )
        if thread_id is not None and not history and not lasts:
            raise NeedsRuntime(
                "Continuing a thread by its id",
                "give the agent or network a history=, or the State the messages or results so far",
            )
    for one in history:
        if not hasattr(one, "role") and type(one).__name__ != "ReasoningMessage":
            raise DefinitionError(f"messages= holds a {type(one).__name__}; give messages, such as previous.messages.")
    if isinstance(definition, NetworkDefinition):
        kind: StateKind[Any] = definition.kind
    else:
        kind = DICT_KIND if given is None or type(given) is dict else StateKind.of(cast("type[Any]", type(given)))
    if given is None and kind is DICT_KIND:
        return kind, {}, history, results, thread_id
    doc = kind.check(kind.new() if given is None else given)
    return kind, doc, history, results, thread_id


def check_options(options: Mapping[str, Any], kernel: Kernel | None, history: HistoryAdapter | None = None) -> None:
    """Refuse options that are unknown, of the wrong kind, or that need a place to last."""
    for name in options:
        if name not in OPTIONS:
            raise DefinitionError(f"There is no run option {name!r}. There are: {', '.join(sorted(OPTIONS))}.")
    durable = kernel is not None and kernel.durable
    if options.get("session_id") is not None and not durable and kernel is None and history is None:
        raise NeedsRuntime("session_id", "pass messages=previous.messages, or give the agent or network a history=")
    for name in ("session_id", "run_id", "user_id"):
        if options.get(name) is not None:
            check_id(options[name], name)
    deadline = options.get("deadline")
    if deadline is not None and (type(deadline) not in (int, float) or not deadline > 0):
        raise DefinitionError(f"deadline={deadline!r} must be a number of seconds from now, above 0.")
    for name in ("budget", "session_budget"):
        if options.get(name) is not None and not isinstance(options[name], Budget):
            raise DefinitionError(f"{name}={options[name]!r} must be a Budget.")
    if options.get("session_budget") is not None:
        if not durable:
            raise NeedsRuntime("session_budget", "give budget= to each run")
        if options["session_budget"].seconds is not None:
            raise DefinitionError("session_budget=Budget(seconds=…): a session has no end; limit each run by budget=.")
    if options.get("on_busy", "queue") not in ("queue", "reject", "interrupt"):
        raise DefinitionError(f"on_busy={options['on_busy']!r} is unknown; it is 'queue', 'reject' or 'interrupt'.")
    if "max_iter" in options:
        check_limit(options["max_iter"], "run")
    if options.get("tool_choice") is not None:
        of_kind(str, "tool_choice")(options["tool_choice"], "run")
    if not isinstance(options.get("resources") or (), (list, tuple)):
        raise DefinitionError(f"run: resources= takes a list of objects, not {options['resources']!r}.")
    check_model(options.get("model"), "run")
    check_settings(options.get("settings"), "run")
    check_router(options.get("router"), "run")


def check_prices(env: Env) -> None:
    """Refuse a budget in dollars where a model's price is not known: it could not be kept to."""
    for agent in env.agents.values():
        check_price(env.model_for(agent))


def check_price(model: Model) -> None:
    """Refuse a model whose price is not known where a budget in dollars applies."""
    from perdure.models.call import price_of

    if getattr(model, "prices", None) is None and price_of(model, Usage(1000, 1000)) is None:
        raise DefinitionError(
            f"A cost budget needs prices, and none is known for {model.provider}:{model.name}. Give the model "
            "prices=Prices(input=…, output=…), or install 'perdure[prices]'."
        )
