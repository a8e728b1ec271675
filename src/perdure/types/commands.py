"""The commands of the bus, as typed pairs of a request and a response.

A request's data carry a `request_id`, which its response repeats. A failure is data, too: `error` says what went wrong.
"""

from __future__ import annotations

from typing import Any, NotRequired, TypeAlias, TypedDict

Content: TypeAlias = "str | list[dict[str, Any]]"
"""What a message says: a text, or parts of text, image and file."""


class ImageRecord(TypedDict):
    """An image as commands tell it; times in milliseconds since the epoch."""

    image_id: str
    container_id: str
    session_id: str
    name: str
    description: str | None
    system_prompt: str | None
    model: str | None
    mcp_servers: dict[str, Any] | None
    definition: str | None
    parent_image_id: str | None
    metadata: dict[str, Any]
    created_at: int
    updated_at: int
    online: bool
    agent_id: str | None


class ImageConfig(TypedDict, total=False):
    """What a new image is made of; what is left out comes from the runtime's default agent."""

    name: str
    description: str
    system_prompt: str
    model: str
    mcp_servers: dict[str, Any]
    definition: str
    metadata: dict[str, Any]


class ImageUpdates(TypedDict, total=False):
    """What is to be changed of an image; what is left out stays."""

    name: str
    description: str | None
    system_prompt: str | None
    model: str | None
    mcp_servers: dict[str, Any] | None
    metadata: dict[str, Any]


class _Asked(TypedDict):
    request_id: NotRequired[str]


class _Answered(TypedDict):
    request_id: str
    error: NotRequired[str]
    subscriptions: NotRequired[list[str]]


class OfContainer(_Asked):
    """A request about one container."""

    container_id: str


class OfAll(_Asked):
    """A request about everything."""


class OfAgent(_Asked):
    """A request about one live agent."""

    agent_id: str


class OfImage(_Asked):
    """A request about one image."""

    image_id: str


class MessageSendRequest(_Asked):
    """A message for an image, which is activated if need be, or for an agent that runs."""

    image_id: NotRequired[str]
    agent_id: NotRequired[str]
    content: Content


class InterruptRequest(_Asked):
    """The end of what an image or agent is doing now."""

    image_id: NotRequired[str]
    agent_id: NotRequired[str]


class ImageCreateRequest(_Asked):
    """A new image in a container, which is made if need be."""

    container_id: str
    config: NotRequired[ImageConfig]


class ImageUpdateRequest(_Asked):
    """Changes of an image."""

    image_id: str
    updates: ImageUpdates


class ImageForkRequest(_Asked):
    """A new image that goes on from a place in another one's conversation: `at` a record, or `before` or `after` a
    message; unless given, from its end."""

    image_id: str
    at: NotRequired[int]
    before: NotRequired[str]
    after: NotRequired[str]
    config: NotRequired[ImageConfig]


class ImageRewindRequest(_Asked):
    """An image is to go on from an earlier place: behind the record `to`, or `before` or `after` a message."""

    image_id: str
    to: NotRequired[int]
    before: NotRequired[str]
    after: NotRequired[str]
    cancel: NotRequired[bool]


class ImageListRequest(_Asked):
    """The images of one container, or of all."""

    container_id: NotRequired[str]


class ContainerResponse(_Answered):
    """Which container it was."""

    container_id: str


class ContainerGetResponse(_Answered):
    """Whether there is such a container."""

    container_id: NotRequired[str]
    exists: bool


class ContainerListResponse(_Answered):
    """All containers."""

    container_ids: list[str]


class AgentGetResponse(_Answered):
    """Whether there is such an agent."""

    agent_id: NotRequired[str]
    container_id: NotRequired[str]
    exists: bool


class AgentRow(TypedDict):
    """A live agent."""

    agent_id: str
    container_id: str
    image_id: str


class AgentListResponse(_Answered):
    """The live agents of a container."""

    agents: list[AgentRow]


class AgentDestroyResponse(_Answered):
    """Whether there was such an agent."""

    agent_id: str
    success: bool


class MessageSendResponse(_Answered):
    """The message is stored; `queued` says that it waits behind another."""

    image_id: NotRequired[str]
    agent_id: str
    message_id: NotRequired[str]
    queued: NotRequired[bool]


class InterruptResponse(_Answered):
    """Whom it has reached."""

    image_id: NotRequired[str]
    agent_id: NotRequired[str]


class ImageRecordResponse(_Answered):
    """The image as it is now."""

    record: ImageRecord | None


class ImageRunResponse(_Answered):
    """The live agent of an image, and whether it was there before."""

    image_id: str
    agent_id: str
    reused: bool


class ImageResponse(_Answered):
    """Which image it was."""

    image_id: str


class ImageRewindResponse(_Answered):
    """Which image it was, and the number of the record that says so."""

    image_id: str
    seq: int


class ImageListResponse(_Answered):
    """Images, the newest first."""

    records: list[ImageRecord]


class ImageMessagesResponse(_Answered):
    """What was said in an image."""

    image_id: str
    messages: list[dict[str, Any]]
