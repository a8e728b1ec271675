"""Asking by a command and waiting for its response, with the data of each command typed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, overload

from typing_extensions import TypeVar

from perdure.types.errors import PerdureError

if TYPE_CHECKING:
    from perdure.types import commands as c
    from perdure.types.envelope import SystemEvent

D = TypeVar("D", covariant=True)

TIMEOUT = 30.0
"""How many seconds a response is waited for, unless it is said otherwise."""


class RequestTimeout(PerdureError, TimeoutError):
    """A request was not answered in time; it may still be done."""


class Response(Protocol, Generic[D]):
    """A response, with the data of its command: a `SystemEvent`."""

    @property
    def type(self) -> str:
        """The command, ending with `_response`."""
        ...

    @property
    def data(self) -> D:
        """What was answered; `error` says what went wrong, if anything did."""
        ...


class Requests(ABC):
    """Whatever commands can be asked of."""

    @abstractmethod
    def _request(self, type: str, data: Any, timeout: float) -> Coroutine[Any, Any, SystemEvent]: ...

    @overload
    async def request(
        self, type: Literal["container_create_request"], data: c.OfContainer, timeout: float = TIMEOUT
    ) -> Response[c.ContainerResponse]: ...
    @overload
    async def request(
        self, type: Literal["container_get_request"], data: c.OfContainer, timeout: float = TIMEOUT
    ) -> Response[c.ContainerGetResponse]: ...
    @overload
    async def request(
        self, type: Literal["container_list_request"], data: c.OfAll = ..., timeout: float = TIMEOUT
    ) -> Response[c.ContainerListResponse]: ...
    @overload
    async def request(
        self, type: Literal["agent_get_request"], data: c.OfAgent, timeout: float = TIMEOUT
    ) -> Response[c.AgentGetResponse]: ...
    @overload
    async def request(
        self, type: Literal["agent_list_request"], data: c.OfContainer, timeout: float = TIMEOUT
    ) -> Response[c.AgentListResponse]: ...
    @overload
    async def request(
        self, type: Literal["agent_destroy_request"], data: c.OfAgent, timeout: float = TIMEOUT
    ) -> Response[c.AgentDestroyResponse]: ...
    @overload
    async def request(
        self, type: Literal["agent_destroy_all_request"], data: c.OfContainer, timeout: float = TIMEOUT
    ) -> Response[c.ContainerResponse]: ...
    @overload
    async def request(
        self, type: Literal["message_send_request"], data: c.MessageSendRequest, timeout: float = TIMEOUT
    ) -> Response[c.MessageSendResponse]: ...
    @overload
    async def request(
        self, type: Literal["agent_interrupt_request"], data: c.InterruptRequest, timeout: float = TIMEOUT
    ) -> Response[c.InterruptResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_create_request"], data: c.ImageCreateRequest, timeout: float = TIMEOUT
    ) -> Response[c.ImageRecordResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_run_request"], data: c.OfImage, timeout: float = TIMEOUT
    ) -> Response[c.ImageRunResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_stop_request"], data: c.OfImage, timeout: float = TIMEOUT
    ) -> Response[c.ImageResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_update_request"], data: c.ImageUpdateRequest, timeout: float = TIMEOUT
    ) -> Response[c.ImageRecordResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_list_request"], data: c.ImageListRequest = ..., timeout: float = TIMEOUT
    ) -> Response[c.ImageListResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_get_request"], data: c.OfImage, timeout: float = TIMEOUT
    ) -> Response[c.ImageRecordResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_delete_request"], data: c.OfImage, timeout: float = TIMEOUT
    ) -> Response[c.ImageResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_messages_request"], data: c.OfImage, timeout: float = TIMEOUT
    ) -> Response[c.ImageMessagesResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_fork_request"], data: c.ImageForkRequest, timeout: float = TIMEOUT
    ) -> Response[c.ImageRecordResponse]: ...
    @overload
    async def request(
        self, type: Literal["image_rewind_request"], data: c.ImageRewindRequest, timeout: float = TIMEOUT
    ) -> Response[c.ImageRewindResponse]: ...
    @overload
    async def request(self, type: str, data: Mapping[str, Any] = ..., timeout: float = TIMEOUT) -> SystemEvent: ...
    async def request(self, type: str, data: Any = None, timeout: float = TIMEOUT) -> Any:
        """Ask for a command to be done, and wait for its response.

        Args:
            type: the command, ending with `_request`.
            data: its data; a `request_id` is added if there is none.
            timeout: how many seconds the response is waited for.

        Returns:
            The response. A failure is data, too: `response.data["error"]` says what went wrong.

        Raises:
            RequestTimeout: nobody answered in time.
            BusClosed: the bus was destroyed.
        """
        return await self._request(type, data or {}, timeout)
