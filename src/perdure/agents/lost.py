"""What counts as used: steps that are done, and what a model was asked and nobody heard the answer of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from perdure.agents.agent_loop import Infer
from perdure.agents.env import Env
from perdure.durable.program import Do
from perdure.durable.run_io import RunIO
from perdure.types.messages import Message, TextMessage
from perdure.types.records import AttemptLost, InferDone, InferenceDone, Payload, ToolDone
from perdure.types.usage import Usage

if TYPE_CHECKING:
    from perdure.agents.env import RunLoop


def lost_attempts(env: Env, loop: RunLoop, io: RunIO) -> list[AttemptLost]:
    """Say which inferences may have been in flight when a run's owner died.

    Those that would be made next may have been; not one that still waits for its next attempt, nor one that the budget
    did not allow.
    """
    action = loop.next()
    wanted = [action] if isinstance(action, Do) else action if isinstance(action, list) else []
    if env.ledger.exceeded() is not None:
        return []
    return [
        AttemptLost(do.key, estimate((*do.what.loop.transcript, *do.what.loop.said)))
        for do in wanted
        if isinstance(do.what, Infer) and not io.tried.rest(do.key, io.kernel.clock.now())
    ]


def estimate(prompt: Sequence[Message], answer: str = "") -> Usage:
    """What a call is taken to have consumed whose end nobody has heard: four characters are a token."""
    asked = sum(len(one.text) for one in prompt if isinstance(one, TextMessage))
    return Usage(model_calls=1, input_tokens=asked // 4, output_tokens=len(answer) // 4)


def usage_of(payload: Payload) -> Usage | None:
    """What a recalled step has consumed, so that a budget counts it once and no more."""
    if isinstance(payload, (InferenceDone, InferDone, AttemptLost)):
        return payload.usage
    if isinstance(payload, ToolDone) and payload.outcome not in ("not_run", "denied"):
        return payload.usage + Usage(tool_calls=1)
    return None
