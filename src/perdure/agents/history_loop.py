"""The network loop of a definition with a history adapter: what is asked of the adapter, and when. A pure fold.

Places: `history/open` asks what was said before, `history/user` stores what the user says, `history/save/<n>` stores
what agents have done from the n-th result on. A child run asks and stores nothing: its result is in the run above it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from perdure.agents.network_loop import NetworkLoop, RunRules
from perdure.agents.result import AgentResult
from perdure.durable.program import Action, Do, Finish
from perdure.types.events import AnyEvent
from perdure.types.messages import Message
from perdure.types.records import Imported, Record, RunStarted, StepDone, StepFailed
from perdure.types.transcript import HISTORY, HISTORY_USER

SAVE = "history/save/"

Origin = Literal["given", "created", "new"]
"""Where a thread's id comes from: the caller, `create_thread`, or the run's own."""


class KeptRules(RunRules, frozen=True):
    """What the loop must know of the definition and of its adapter."""

    history: frozenset[str]


class Open(msgspec.Struct, frozen=True):
    """The note that the thread is to be seen to, and, if `load`, what was said in it to be read."""

    ensure: bool
    load: bool


class StoreUser(msgspec.Struct, frozen=True):
    """The note that what the user says is to be stored."""


class Save(msgspec.Struct, frozen=True):
    """The note that results are to be stored, `user` if what the user said as well."""

    start: int
    user: bool


ASKING = (Open, StoreUser, Save)
"""What only an adapter can do."""


class HistoryLoop(NetworkLoop, eq=False):
    """The state of a run whose conversation is kept elsewhere too.

    `imported` is what the adapter gave, `past` what agents had done in it, `saved` how many results are stored.
    """

    kept: bool = False
    opening: Open | None = None
    asking_user: bool = False
    user_unsaved: bool = False
    imported: tuple[Message, ...] = ()
    past: tuple[AgentResult, ...] = ()
    saved: int = 0
    began_at: float = 0.0

    def next(self) -> Action:
        """Say what the run wants now."""
        do = self._keep() if self.kept else None
        if do is not None:
            return do
        action = NetworkLoop.next(self)
        if self.user_unsaved and self.kept and type(action) is Finish and self.opening is None:
            return Do(f"{SAVE}{self.saved}", Save(self.saved, user=True))
        return action

    def _keep(self) -> Do | None:
        if self.stopping is None:
            if self.opening is not None:
                return Do(HISTORY, self.opening)
            if self.asking_user:
                return Do(HISTORY_USER, StoreUser())
        fresh = self.results[self.saved :]
        if fresh and "append_results" in self._rules and any(one.messages for one in fresh):
            return Do(f"{SAVE}{self.saved}", Save(self.saved, self.user_unsaved))
        return None

    @property
    def _rules(self) -> frozenset[str]:
        assert isinstance(self.rules, KeptRules)
        return self.rules.history

    def fold(self, record: Record) -> Sequence[AnyEvent]:
        """Take one record of the run."""
        payload = record.payload
        if type(payload) is Imported:
            self._open(payload)
        elif type(payload) is StepDone and record.key is not None and record.key.startswith("history/"):
            if record.key == HISTORY_USER:
                self.asking_user = False
            else:
                self.saved = int(payload.result)
                self.user_unsaved = False
        elif type(payload) is StepFailed and payload.step.startswith("history/"):
            self.kept = False
            if payload.step in (HISTORY, HISTORY_USER) and self.started is not None:  # so it was never said
                del self.transcript[len(self.transcript) - len(self.started.messages) :]
            return NetworkLoop.fold(self, record)
        else:
            notes = NetworkLoop.fold(self, record)
            if type(payload) is RunStarted:
                self.began_at = record.created_at
                self._begin_keeping(payload)
            return notes
        return ()

    def _begin_keeping(self, started: RunStarted) -> None:
        rules = self._rules
        origin: Origin = started.options.get("thread", "given")
        self.kept = started.parent is None
        ensure = "ensure_thread" in rules and origin != "created"
        load = "get" in rules and origin == "given" and not started.history and not self.earlier
        self.opening = Open(ensure, load) if ensure or load else None
        said = bool(started.messages)
        self.asking_user = said and "append_user_message" in rules
        self.user_unsaved = said and "append_results" in rules and "append_user_message" not in rules

    def _open(self, payload: Imported) -> None:
        self.opening = None
        self.imported = payload.messages
        place = len(self.earlier)
        self.transcript[place:place] = payload.messages  # nothing was said yet that could have a place in it
        self.past = tuple(
            AgentResult(one.agent_name, payload.messages[one.start : one.end], one.id, one.created_at)
            for one in payload.results
        )
