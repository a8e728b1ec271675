"""The prints of agents and networks: worked out once per definition, when its first durable run is taken in."""

from __future__ import annotations

from typing import Any

from perdure.agents.definition import AgentDefinition, Definition, NetworkDefinition, RoutingDefinition
from perdure.agents.env import output_of
from perdure.agents.function_definition import FunctionDefinition
from perdure.agents.state_shape import fields_of
from perdure.agents.tool import Tool
from perdure.durable.fingerprint import REST, Prints, hashed
from perdure.models.model import Model
from perdure.types.base import Json, encode_json


def prints_of(definition: Definition, fallback: Model | None = None) -> Prints:
    """What a run keeps of its definition, to tell later what differs; `fallback` is the model of agents without one."""
    last = _model(fallback)
    return definition.cached(f"prints:{last}", lambda: _prints(definition, last))


def _prints(definition: Definition, fallback: str) -> Prints:
    if isinstance(definition, FunctionDefinition):
        return {f"function {definition.name}": _function(definition)}
    if isinstance(definition, AgentDefinition):
        return {f"agent {definition.name}": _agent(definition, fallback)}
    assert isinstance(definition, NetworkDefinition)
    model = _model(definition.model) or fallback
    found: Prints = {f"agent {name}": _agent(agent, model) for name, agent in definition.agents.items()}
    router = definition.router
    if isinstance(router, RoutingDefinition):
        found[f"routing agent {router.name}"] = _agent(router.agent, model)
    elif router is not None:
        found["router"] = _name(router)
    found["state"] = _state(definition.state)
    return found


def _agent(agent: AgentDefinition, fallback: str) -> Prints:
    found: Prints = {}
    if callable(agent.system):
        found["prompt"] = f"function {_name(agent.system)}"
    elif agent.system:
        found["prompt"] = hashed(agent.system)
    model = _model(agent.model) or fallback
    if model:
        found["model"] = model
    output = agent.cached("output", lambda: output_of(agent))
    if output:
        found["output type"] = {"name": output.name, REST: hashed(encode_json(output.spec.schema))}
    for one in agent.tools:
        found[f"{'tool' if isinstance(one, Tool) else 'toolset'} {one.name}"] = (
            _tool(one) if isinstance(one, Tool) else type(one).__name__
        )
    return found


def _function(one: FunctionDefinition) -> Prints:
    from perdure.agents.code_prints import code_prints  # only here, as few processes have functions

    by_event: Prints = {"event": one.event, "cron": one.cron}
    found = by_event if one.signature is None else _parameters(one.signature.parameters)
    found["retries"] = str(one.retries)
    if one.concurrency is not None:
        found["concurrency"] = " by ".join(str(part) for part in (one.concurrency.limit, one.concurrency.key) if part)
    return {**found, **code_prints(one.fn, one.takes_context)}


def _parameters(schema: dict[str, Any]) -> Prints:
    needed = schema.get("required", ())
    return {
        f"parameter {name}": _type(rules) + ("" if name in needed else ", optional")
        for name, rules in schema["properties"].items()
    }


def _tool(one: Tool[..., Any, Any]) -> Prints:
    schema: dict[str, Any] = one.parameters
    found: Prints = {"effect": one.effect, **_parameters(schema)}
    found[REST] = hashed(encode_json([one.description, schema]))
    return found


def _type(rules: Json) -> str:
    """A parameter's JSON schema in a few words."""
    if not isinstance(rules, dict):
        return "any"
    if "enum" in rules:
        return "one of " + ", ".join(str(one) for one in rules["enum"])
    several = rules.get("anyOf") or rules.get("oneOf")
    if several:
        return " or ".join(_type(one) for one in several)
    if "$ref" in rules:
        return str(rules["$ref"]).rpartition("/")[2]
    if rules.get("type") == "array":
        return f"array of {_type(rules.get('items'))}"
    return str(rules.get("format") or rules.get("type", "any"))


def _state(factory: Any) -> Prints:
    fields = fields_of(factory)
    return {"type": _name(factory), **{f"field {name}": _hint(hint) for name, hint in fields.items()}}


def _hint(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not getattr(hint, "__args__", ()) else str(hint)


def _model(model: Model | str | None) -> str:
    return model if isinstance(model, str) else "" if model is None else f"{model.provider}:{model.name}"


def _name(one: Any) -> str:
    """A function or a class by the name under which its code is found."""
    name = getattr(one, "__qualname__", None) or type(one).__qualname__
    return str(name).replace("<locals>.", "")
