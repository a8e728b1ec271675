"""What a run gives back: one type for agents and networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Literal, Protocol, cast

from typing_extensions import TypeVar

from perdure.agents.result import AgentResult
from perdure.agents.state import State
from perdure.types.errors import DefinitionError, RunCancelled, RunFailed, RunWaiting
from perdure.types.messages import Message
from perdure.types.status import RunStatus, StopReason
from perdure.types.usage import Usage
from perdure.types.waits import Wait, WaitAnswer, about, check_answer

Out = TypeVar("Out", default=Any)
S = TypeVar("S", default=Any)


class Origin(Protocol):
    """The run that a result is of; see `Running`."""

    @property
    def given(self) -> int: ...
    @property
    def earlier_results(self) -> tuple[AgentResult, ...]: ...
    @property
    def thread_id(self) -> str | None: ...
    async def resume(self, answers: Mapping[str, WaitAnswer]) -> RunResult[Any, Any]: ...


class RunResult(Generic[Out, S]):
    """What a run has reached: output, messages, what each agent did, state, usage.

    `messages` is the whole conversation (what was given as `messages=` included), ready to be given to the next run;
    `new_messages` what this run added. A run that waits has a `status` of `"waiting"` and `waits` to be answered.
    `answered` says of one that an answer has led to whether the run waited for it, or keeps it as an early one.
    """

    __slots__ = (
        "_data",
        "_load",
        "_output",
        "_running",
        "_state",
        "answered",
        "messages",
        "results",
        "run_id",
        "session_id",
        "status",
        "stop_detail",
        "stop_reason",
        "usage",
        "user_id",
        "waits",
    )

    def __init__(
        self,
        *,
        status: RunStatus,
        stop_reason: StopReason | None,
        stop_detail: str,
        output: Any,
        load: Callable[[Any], Any] | None,
        messages: tuple[Message, ...],
        results: tuple[AgentResult, ...],
        data: Callable[[], S],
        usage: Usage,
        waits: tuple[Wait, ...],
        run_id: str,
        session_id: str,
        user_id: str | None,
        running: Origin,
    ) -> None:
        self.status: RunStatus = status
        self.stop_reason = stop_reason
        self.stop_detail = stop_detail
        self._output = output
        self._load = load
        self.messages = messages
        self.results = results
        self._data = data
        self._state: State[S] | None = None
        self.usage = usage
        self.waits = waits
        self.run_id = run_id
        self.session_id = session_id
        self.user_id = user_id
        self.answered: Literal["accepted", "early"] | None = None
        self._running = running

    @property
    def output(self) -> Out:
        """The answer: text, or an object of the output type.

        Raises:
            RunWaiting: the run waits and has no answer yet.
            RunFailed: the run ended without an answer of the output type.
        """
        if self.status == "waiting":
            names = ", ".join(f"{about(wait)} ({wait.id})" for wait in self.waits)
            raise RunWaiting(
                f"Run {self.run_id} waits for an answer: {names}. Answer with result.resume({{wait.id: Approve()}}) "
                "or Deny(…), or by the runtime: runtime.approve(wait_id).",
                self,
            )
        if self._load is not None:
            self._output = self._load(self._output)
            self._load = None
        return cast("Out", self._output)

    @property
    def new_messages(self) -> tuple[Message, ...]:
        """What this run added to the conversation, its input first."""
        return self.messages[self._running.given :]

    @property
    def state(self) -> State[S]:
        """The data as the run has left them, with all messages and results."""
        if self._state is None:
            origin = self._running
            results = (*origin.earlier_results, *self.results)
            self._state = State[S].lazy(self._data, self.messages, results, origin.thread_id)
        return self._state

    @property
    def text(self) -> str:
        """What the last agent said as text; empty if nothing."""
        return self.results[-1].text if self.results else ""

    async def resume(self, answers: Mapping[str, WaitAnswer] | None = None) -> RunResult[Out, S]:
        """Answer what the run waits for, and go on until it has answered or waits again.

        Args:
            answers: by the waits' ids; what is not answered keeps waiting.

        Raises:
            DefinitionError: the run does not wait, an id is none of its waits, or the answer is none to it.
            Conflict: the wait was over before; without it, `resume()` lets the run go on.
        """
        if answers is not None and not isinstance(answers, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"resume({answers!r}): answers are given by the waits' ids, {{wait.id: Approve()}}.")
        given: dict[str, WaitAnswer] = {}
        known = {wait.id: wait for wait in self.waits}
        if self.status != "waiting":
            raise DefinitionError(f"Run {self.run_id} does not wait; its status is {self.status!r}.")
        for id, answer in (answers or {}).items():
            if id not in known:
                raise DefinitionError(f"Run {self.run_id} waits for {', '.join(sorted(known))}, not for {id!r}.")
            given[id] = check_answer(known[id], answer)
        return cast("RunResult[Out, S]", await self._running.resume(given))

    def print(self) -> None:
        """Show the conversation and what it took in the terminal."""
        import sys

        sys.stdout.write(self.transcript() + "\n")

    def transcript(self) -> str:
        """Write the run's new messages and what it took as text."""
        lines = [line for one in self.new_messages for line in _lines(one)]
        spent = self.usage
        counts = {
            "agent": len(self.results),
            "model call": spent.model_calls,
            "tool call": spent.tool_calls,
            "token": spent.total_tokens,
        }
        reason = f" ({self.stop_reason})" if self.stop_reason else ""
        took = ", ".join(f"{count} {what}{'' if count == 1 else 's'}" for what, count in counts.items())
        return "\n".join([*lines, f"— {self.status}{reason}: {took}"])

    def __repr__(self) -> str:
        return f"RunResult({self.run_id!r}, status={self.status!r}, stop_reason={self.stop_reason!r})"


def _lines(message: Message) -> list[str]:
    from perdure.types.messages import ReasoningMessage, TextMessage, ToolCallMessage, result_text

    if isinstance(message, TextMessage):
        return [f"{message.role}: {message.text}"]
    if isinstance(message, ToolCallMessage):
        return [f"call: {call.name}({result_text(call.input)})" for call in message.tools]
    if isinstance(message, ReasoningMessage):
        return [f"thought: {message.content}"] if message.content else []
    return [f"result: {message.tool.name} → {_short(result_text(message.content))}"]


def _short(text: str, most: int = 300) -> str:
    return text if len(text) <= most else text[:most] + "…"


def raise_for(result: RunResult[Any, Any], definition: str, cause: BaseException | None, error: Any) -> None:
    """Raise if a run failed or was cancelled; the exception carries the partial result."""
    if result.status == "failed":
        name = getattr(error, "type", "Error")
        message = getattr(error, "message", "unknown")
        where = getattr(error, "where", "")
        failure = RunFailed(
            f"{definition!r} failed" + (f" in step {where}" if where else "") + f": {name}: {message}", result
        )
        failure.add_note(f"run {result.run_id}, session {result.session_id}; .result holds what was reached")
        raise failure from cause
    if result.status == "cancelled":
        why = {
            "deadline": "its deadline passed",
            "interrupted": "it was interrupted",
        }.get(result.stop_reason or "", "it was cancelled")
        cancelled = RunCancelled(f"{definition!r} ended without an answer: {why}", result)
        cancelled.add_note(f"run {result.run_id}, session {result.session_id}; .result holds what was reached")
        raise cancelled


def text_of(results: Sequence[AgentResult]) -> str:
    """What the last agent said as text."""
    return results[-1].text if results else ""
