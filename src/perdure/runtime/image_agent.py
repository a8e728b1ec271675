"""What an image runs: a registered definition, or an agent of its own that is made of its configuration."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from perdure.agents.agent import Agent
from perdure.agents.definition import AgentDefinition
from perdure.log.images import ImageRow
from perdure.runtime.environment import EnvironmentModel, EnvironmentTools, Hosted
from perdure.runtime.image_names import OUTSIDE, PREFIX
from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    from perdure.agents.mcp import MCPServer

_MCP_KEYS = frozenset(("type", "command", "args", "env", "url", "headers"))


def definition_of(image: ImageRow, base: AgentDefinition | None, cwd: Path | None = None) -> AgentDefinition:
    """Make the agent of an image that names no definition.

    Args:
        image: the image.
        base: the runtime's default agent; what the image does not say is taken from it.
        cwd: the folder in which its MCP servers are started.
    """
    servers = read_servers(image.mcp_servers or {}, cwd)
    own: dict[str, Any] = {"name": f"{PREFIX}{image.id}", "description": image.description or ""}
    if image.system_prompt is not None:
        own["system"] = image.system_prompt
    if image.model is not None:
        own["model"] = image.model
    if base is not None:
        return base.replace(**own, tools=(*base.tools, *servers))
    name = own.pop("name")
    return cast("AgentDefinition", Agent(name, **own, tools=servers))


def environment_agent(image: ImageRow, find: Callable[[], Awaitable[Hosted]]) -> AgentDefinition:
    """Make the agent of an image whose answers come from an environment; it runs as long as that has tools to call."""
    model = EnvironmentModel(find, image.model or "environment")
    tools = [EnvironmentTools(find)]
    return cast("AgentDefinition", Agent(f"{OUTSIDE}{image.id}", model=model, tools=tools, max_iter=None))


def read_servers(servers: Mapping[str, Any], cwd: Path | None = None) -> list[MCPServer]:
    """Read the MCP servers of an image: by name, each a command with its arguments, or an address.

    Raises:
        DefinitionError: one of them is wrong.
    """
    if not isinstance(servers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise DefinitionError(f"mcp_servers is a {type(servers).__name__}; give an object of servers by name.")
    return [_server(name, config, cwd) for name, config in servers.items()]


def _server(name: str, config: Any, cwd: Path | None) -> MCPServer:
    where = f"mcp_servers[{name!r}]"
    if not isinstance(config, Mapping):
        raise DefinitionError(f"{where} is a {type(config).__name__}; give an object with a command or a url.")
    given = cast("Mapping[str, Any]", config)
    unknown = sorted(set(given) - _MCP_KEYS)
    if unknown:
        raise DefinitionError(f"{where} has {', '.join(unknown)}; known are {', '.join(sorted(_MCP_KEYS))}.")
    from perdure.agents.mcp import mcp

    kind = given.get("type") or ("stdio" if "command" in given else "http")
    if kind == "stdio":
        command, args = given.get("command"), given.get("args", [])
        if not isinstance(command, str) or not isinstance(args, list):
            raise DefinitionError(f"{where}: command is a text and args a list of texts.")
        return mcp(name, command=[command, *map(str, cast("list[Any]", args))], env=given.get("env"), cwd=cwd)
    if kind not in ("http", "sse"):
        raise DefinitionError(f"{where}: the type {kind!r} is unknown; it is 'stdio', 'http' or 'sse'.")
    if not isinstance(given.get("url"), str):
        raise DefinitionError(f"{where}: a server of type {kind!r} has a url.")
    return mcp(name, url=given["url"], transport=kind, headers=given.get("headers"))


def shown_servers(servers: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Show MCP servers without what may be secret in them: of variables and headers only the names."""
    if servers is None:
        return None
    shown: dict[str, Any] = {}
    for name, config in servers.items():
        one = dict(cast("Mapping[str, Any]", config))
        for key in ("env", "headers"):
            if isinstance(one.get(key), Mapping):
                one[key] = dict.fromkeys(one[key], "…")
        shown[name] = one
    return shown
