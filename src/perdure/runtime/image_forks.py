"""Images that go on from a place in another one's conversation, and images that go back in their own."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace
from typing_extensions import Unpack

from perdure.agents.in_sync import InSync
from perdure.log.images import Entities, ImageRow
from perdure.log.log import ENDED
from perdure.runtime.conversations import seen
from perdure.runtime.image_config import RESUMED, check_config, check_names
from perdure.runtime.messages import user_id
from perdure.runtime.workdir import remove_workdir
from perdure.types import commands as c
from perdure.types.envelope import EventContext
from perdure.types.errors import Conflict, DefinitionError, UnknownName
from perdure.types.ids import new_id
from perdure.types.records import RunFinished, RunStarted, SessionEvent

if TYPE_CHECKING:
    from perdure.runtime.container import Container
    from perdure.runtime.runtime import Runtime

_OWN = ("system_prompt", "mcp_servers")
"""What an image that runs a registered definition does not have."""


class ImageForks(ABC):
    """What images do with the forks and rewinds of their sessions."""

    _runtime: Runtime
    entities: Entities

    @abstractmethod
    async def _keep(self, row: ImageRow) -> c.ImageRecord: ...

    @abstractmethod
    def _named(self, name: str) -> Any: ...

    @abstractmethod
    def _tell(self, type: str, data: dict[str, Any], source: Any, context: EventContext) -> None: ...

    @abstractmethod
    async def stop(self, image_id: str) -> bool:
        """Destroy an image's live agent."""

    async def fork(
        self,
        image_id: str,
        at: int | None = None,
        *,
        before: str | None = None,
        after: str | None = None,
        **config: Unpack[c.ImageConfig],
    ) -> c.ImageRecord:
        """Make an image that goes on from a place in another one's conversation; that one does not change.

        Args:
            image_id: the image to go on from.
            at: the number of the last record that it reads of that one's session; unless given, its last one.
            before: in its place, a message of the user: the conversation as it was before it.
            after: in its place, any message: the conversation as it was when that message's turn had ended.
            config: what is to be different of the new image.

        Raises:
            UnknownName: there is no such image, or no such message in it.
            InvalidId: its session has no such record.
            Conflict: the turn of the message goes on, or what was there was erased.
            DefinitionError: the place is said twice, or something in the configuration is wrong.
        """
        row = await self.entities.image(image_id)
        made = self._changed(row, config)
        container = self._runtime.container(row.container)
        head = await container.log.head(row.session)
        seq = await _place(container, row.session, at, before, after, head)
        if seq:
            await container.session(row.session).fork(seq, id=made.session, title=made.name)
        record = await self._keep(made)
        data = {
            "original_session_id": row.session,
            "new_session_id": made.session,
            "new_image_id": made.id,
            "forked_at": time.time_ns() // 1_000_000,
            "seq": seq,
        }
        self._tell("session_forked", data, "session", EventContext(row.container, row.id, None, row.session))
        return record

    def _changed(self, row: ImageRow, config: c.ImageConfig) -> ImageRow:
        """Make the row of a fork: what its configuration does not say is the other one's."""
        check_names(config, c.ImageConfig.__annotations__, "config")
        own: dict[str, Any] = {name: one for name, one in config.items() if one is not None}
        check_config(own)
        definition = own.get("definition", row.definition)
        if definition is not None:
            self._named(definition)
            for name in _OWN:
                if name in own:
                    raise DefinitionError(f"config: {name} does not go with a definition, which has its own.")
                own[name] = None
        kept = {name: value for name, value in row.metadata.items() if name != RESUMED}
        own["metadata"] = {**kept, **own.get("metadata", {})}
        return replace(row, **own, id=new_id("img"), session=new_id("sess"), parent=row.id)

    async def rewind(
        self,
        image_id: str,
        to: int | None = None,
        *,
        before: str | None = None,
        after: str | None = None,
        cancel: bool = False,
    ) -> int:
        """Let an image go on from an earlier place in its conversation: what was said since is not looked at any more.

        An environment that keeps the conversation itself is given none: it begins anew.

        Args:
            image_id: the image.
            to: the number of the last record of its session that still counts; 0 for the beginning.
            before: in its place, a message of the user: that one and all behind it are left out.
            after: in its place, any message: all behind its turn is left out.
            cancel: whether open turns are cancelled first.

        Returns:
            The number of the record that says so.

        Raises:
            UnknownName: there is no such image, or no such message in it.
            InvalidId: its session has no such record, or nothing behind it.
            Conflict: the place is inside a turn, or a turn has not ended.
            DefinitionError: the place is not said, or said twice.
        """
        row = await self.entities.image(image_id)
        container = self._runtime.container(row.container)
        place = await _place(container, row.session, to, before, after, None)
        seq = await container.session(row.session).rewind(place, cancel=cancel)
        if RESUMED in row.metadata:
            await self.stop(image_id)
            await self.entities.change_image(image_id, {"metadata": {RESUMED: None}})
        return seq

    fork_sync = InSync(fork)
    rewind_sync = InSync(rewind)

    async def _remove(self, row: ImageRow) -> None:
        """Take an image away with what was said in it; what another image goes on from stays until that one goes."""
        container = self._runtime.container(row.container)
        bases = await container.log.bases(row.session)
        if await self._goes_on(container, row.session):
            for run in await container.log.runs(session_id=row.session):
                if run.status not in ENDED:
                    await container.cancel(run.id)
        else:
            with suppress(UnknownName):  # nobody has ever said anything in it
                await container.erase(row.session, cancel=True)
        await self._clear(row)
        await self.entities.delete_image(row.id)
        for base in bases:
            if await self.entities.shown(row.container, [base]) or await self._goes_on(container, base):
                return
            await container.erase(base, cancel=True)

    async def _clear(self, row: ImageRow) -> None:
        base = self._runtime.base_path
        if base is not None:
            await asyncio.to_thread(remove_workdir, base, row.container, row.id)

    async def _goes_on(self, container: Container, session_id: str) -> bool:
        """Whether an image goes on from a session."""
        return bool(await self.entities.shown(container.name, await container.log.forks(session_id)))


async def _place(
    container: Container, session_id: str, at: int | None, before: str | None, after: str | None, unless: int | None
) -> int:
    """Say behind which record a place in a conversation is, however it is named.

    Args:
        container: whose session it is.
        session_id: the session.
        at: the record itself.
        before: a message of the user.
        after: a message.
        unless: where it is if it is not named.
    """
    named = [one for one in (at, before, after) if one is not None]
    if len(named) > 1 or (not named and unless is None):
        raise DefinitionError("Name one place: the number of a record, or the message that it is before or after.")
    if not named:
        return unless or 0
    if at is not None:
        return at
    message, turn = str(named[0]), ""
    for record in await seen(container.log, session_id):
        payload, run_id = record.payload, record.run_id
        if isinstance(payload, SessionEvent) and payload.event_id == message:
            return record.seq - (before is not None)
        if isinstance(payload, RunStarted) and (message == user_id(run_id) or message.startswith(f"{run_id}/")):
            turn = run_id
            if before is not None and message == user_id(run_id):
                return record.seq - 1
            if before is not None:
                raise DefinitionError(f"before={message!r} is no message of the user; name that one, or give after=.")
        elif turn and run_id == turn and isinstance(payload, RunFinished):
            return record.seq
    if turn:
        raise Conflict(f"The turn of the message {message!r} goes on; wait for its end, or interrupt it.")
    raise UnknownName("message", message[:100])
