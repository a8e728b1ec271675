"""A chain of models as one model: when one fails, the next is asked.

What the failed one had streamed is void; the chain says so with `Restarted` before the next one's pieces. It has the
capabilities that all of its models have, so that a request fits whichever answers.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from copy import copy

from msgspec.structs import replace

from perdure.models.call import price_of
from perdure.models.model import Capabilities, Model, ModelRequest
from perdure.types.chunks import Finished, ModelEvent, Restarted, Used
from perdure.types.errors import AuthenticationFailed, ConfigurationError, DefinitionError, ModelError
from perdure.types.usage import Prices


def unavailable(error: Exception) -> bool:
    """Whether this failure is the model's own, so that another model may do better.

    That is what may pass (rate limits, overload, network, rubbish), a refused key, a model that does not exist, a
    missing package or key; not a request that is wrong, too long, or refused for its content.
    """
    if isinstance(error, ModelError):
        return error.retryable or isinstance(error, AuthenticationFailed) or error.status == 404
    return isinstance(error, ConfigurationError)


class FallbackModel:
    """Models that stand in for each other, in order, while `on` says that a failure is a reason to."""

    provider = "fallback"
    prices: Prices | None = None

    def __init__(self, models: tuple[Model, ...], on: Callable[[Exception], bool] = unavailable) -> None:
        if len(models) < 2:
            raise DefinitionError(f"A fallback chain needs at least two models, and got {len(models)}.")
        self.models: tuple[Model, ...] = models
        self.on = on
        self.name = ",".join(map(_name, models))
        self.capabilities = _common([one.capabilities for one in models])

    def __repr__(self) -> str:
        return f"fallback({', '.join(repr(one) for one in self.models)})"

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Answer a request with the first model that can.

        Raises:
            ModelError: what the last one said; its notes say what the others said.
        """
        failed: list[tuple[Model, Exception]] = []
        for model in self.models:
            if failed:
                before, why = failed[-1]
                name = _name(before)
                yield Restarted(f"{name} failed: {type(why).__name__}", model.provider, model.name, name)
            pieces = model.stream(request)
            try:
                async for piece in pieces:
                    yield _priced(model, piece) if isinstance(piece, (Finished, Used)) else piece
                return
            except Exception as error:
                if model is self.models[-1] or not self.on(error):
                    for other, why in failed:
                        error.add_note(f"Before, {_name(other)} failed: {type(why).__name__}: {why}")
                    raise
                failed.append((model, error))
            finally:
                await _close(pieces)

    async def aclose(self) -> None:
        """Close the clients of all models of the chain."""
        for model in self.models:
            close = getattr(model, "aclose", None)
            if close is not None:
                await close()


def behind(model: Model, failed: Sequence[str]) -> Model:
    """Give what is left of a chain behind models that have failed in this attempt, as another process has recorded."""
    if not failed or not isinstance(model, FallbackModel):
        return model
    left, still = list(model.models), list(failed)
    while len(left) > 1 and _name(left[0]) in still:
        still.remove(_name(left.pop(0)))
    chain = copy(model)
    chain.models = (behind(left[0], still), *left[1:])
    return chain


def _name(model: Model) -> str:
    return f"{model.provider}:{model.name}"


def _priced(model: Model, end: Finished | Used) -> ModelEvent:
    """Only here it is known who answered, and so what it costs."""
    cost = price_of(model, end.usage)
    return end if cost is None else replace(end, usage=replace(end.usage, cost=cost))


async def _close(pieces: AsyncIterator[ModelEvent]) -> None:
    """Close a model's stream with ours, so that its connection does not wait for the garbage collector."""
    close = getattr(pieces, "aclose", None)
    if close is not None:
        await close()


def _common(each: list[Capabilities]) -> Capabilities:
    outputs = [one.structured_output for one in each]
    output = "no" if "no" in outputs else "alone" if "alone" in outputs else "yes"
    return Capabilities(structured_output=output, prefill=all(one.prefill for one in each))
