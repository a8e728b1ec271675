"""What an image is made of: checked before anything is stored, and told as commands tell it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perdure.log.images import AgentRow, ImageRow, storable
from perdure.runtime.image_agent import read_servers, shown_servers
from perdure.types import commands as c
from perdure.types.base import encode_json
from perdure.types.errors import DefinitionError

NAME = "New Conversation"
"""What an image is called that nobody has named."""
RESUMED = "environment_session_id"
"""Under which name in an image's metadata an environment's own session is kept."""
MOST_TEXT = 1024 * 1024
"""The most characters that a name, description or system prompt may have."""


def record_of(row: ImageRow, agent: AgentRow | None) -> c.ImageRecord:
    """Tell an image, and which live agent it has."""
    return {
        "image_id": row.id,
        "container_id": row.container,
        "session_id": row.session,
        "name": row.name,
        "description": row.description,
        "system_prompt": row.system_prompt,
        "model": row.model,
        "mcp_servers": shown_servers(row.mcp_servers),
        "definition": row.definition,
        "parent_image_id": row.parent,
        "metadata": row.metadata,
        "created_at": int(row.created_at * 1000),
        "updated_at": int(row.updated_at * 1000),
        "online": agent is not None,
        "agent_id": agent.id if agent is not None else None,
    }


def check_names(given: Mapping[str, Any], names: Mapping[str, Any], where: str) -> None:
    """Refuse what nobody knows.

    Raises:
        DefinitionError: there is something among it that has another name.
    """
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise DefinitionError(f"{where} has {', '.join(map(repr, unknown))}; known are {', '.join(names)}.")


def check_config(given: Mapping[str, Any]) -> None:
    """Refuse a configuration that is wrong before anything is stored.

    Raises:
        DefinitionError: something in it is.
    """
    for name in ("name", "description", "system_prompt", "model", "definition"):
        value: Any = given.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > MOST_TEXT or not storable(value)):
            raise DefinitionError(f"{name} must be a text of at most {MOST_TEXT:,} characters, without NUL.")
    if given.get("mcp_servers") is not None:
        read_servers(given["mcp_servers"])
    metadata: Any = given.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise DefinitionError(f"metadata is a {type(metadata).__name__}; give an object.")
    for name in ("metadata", "mcp_servers"):
        try:
            encode_json(given.get(name))
        except (TypeError, ValueError) as error:
            raise DefinitionError(f"{name} has no JSON form ({error}).") from error
