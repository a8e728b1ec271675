"""How a step has a run driven by any process that has its definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from perdure.agents.running import Running

if TYPE_CHECKING:
    from perdure.runtime.container import Container


class ContainerPeers:
    """The processes that drive a container's runs.

    Args:
        container: the container, as this process sees it.
    """

    def __init__(self, container: Container) -> None:
        self._container = container

    def check(self, definition: Any) -> None:
        """Refuse a definition that is not registered.

        Raises:
            DefinitionError: no other process could find it by its name.
        """
        self._container.runtime.check_registered(definition)

    async def begin(self, running: Running) -> None:
        """Take in a run that whoever has its definition drives; the same run again is the same.

        Raises:
            Conflict: its id belongs to another input.
        """
        container = self._container
        accepted = await container.log.accept(container.new_run(running, detached=True), running.started)
        if not accepted.known:
            container.runtime.worker.woken(container.name, [accepted.run.id])

    async def cancel(self, run_id: str) -> None:
        """Ask for the end of a run, whoever drives it."""
        await self._container.cancel(run_id)
