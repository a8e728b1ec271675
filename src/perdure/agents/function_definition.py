"""What a function is defined by: checked when it is made, immutable after. `Function` adds the doors for users."""

# pyright: reportUnnecessaryIsInstance=false
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from perdure.agents.adapters import adapter_of
from perdure.agents.context import Context
from perdure.agents.definition import Definition
from perdure.agents.hints import EMPTY, asked_by, is_async, names_around, resolve
from perdure.agents.signature import Signature, read_signature
from perdure.types.base import convert, encode_json, plain
from perdure.types.concurrency import Concurrency, lane_of, read_concurrency
from perdure.types.cron import check_cron, read_containers
from perdure.types.errors import DefinitionError, OutputInvalid
from perdure.types.sent_event import CRON_EVENT, SentEvent


class FunctionDefinition(Definition):
    """Everything that a function is; see `function` for what the arguments mean."""

    __slots__ = (
        "__dict__",
        "concurrency",
        "containers",
        "cron",
        "description",
        "event",
        "fn",
        "output_type",
        "retries",
        "signature",
        "takes_context",
        "takes_event",
    )
    fn: Callable[..., Any]
    event: str | None
    cron: str | None
    containers: tuple[str, ...]
    retries: int
    concurrency: Concurrency | None
    description: str
    output_type: Any
    signature: Signature | None
    takes_context: bool
    takes_event: bool

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        event: str | None = None,
        cron: str | None = None,
        container: str | Sequence[str] | None = None,
        name: str | None = None,
        retries: int = 4,
        concurrency: int | Concurrency | None = None,
        description: str | None = None,
    ) -> None:
        if not callable(fn) or not is_async(fn):
            raise DefinitionError(f"@function takes an `async def`, not {fn!r}: its steps are awaited.")
        super().__init__(name or getattr(fn, "__name__", ""))
        where = repr(self)
        if event is not None and (not isinstance(event, str) or not event):
            raise DefinitionError(f"{where}: event={event!r} must be the name of an event, such as 'app/invoice.paid'.")
        if type(retries) is not int or retries < 0:
            raise DefinitionError(f"{where}: retries={retries!r} must be a whole number from 0.")
        if container is not None and cron is None:
            raise DefinitionError(
                f"{where}: container= says where cron= starts it. An event starts it where the event is sent, and a "
                "call where it is made."
            )
        asked = asked_by(fn, Context)
        signature: Signature | None = None
        if event is None and cron is None:
            signature = read_signature(fn, context_type=Context)
        else:
            needed = [one for one in asked.parameters if one.default is EMPTY]
            if len(needed) > 1 or any(one.kind is inspect.Parameter.KEYWORD_ONLY for one in needed):
                raise DefinitionError(
                    f"{where} is started by events, so it takes the context and the event and nothing else: "
                    f"async def {self.name}(ctx: Context, event: SentEvent)."
                )
        self.put(
            fn=fn,
            event=event,
            cron=None if cron is None else check_cron(cron, where),
            containers=() if cron is None else read_containers(container, where),
            retries=retries,
            concurrency=read_concurrency(concurrency, where),
            description=description or (inspect.getdoc(fn) or "").partition("\n\n")[0],
            output_type=_returns(fn),
            signature=signature,
            takes_context=asked.takes_context,
            takes_event=bool(asked.parameters),
            __wrapped__=fn,
            __doc__=fn.__doc__,
        )

    @property
    def by_event(self) -> bool:
        """Whether it is given an event, and not arguments of its own."""
        return self.signature is None

    def read(self, data: Any) -> Any:
        """Check what a run is given, and make plain JSON of it.

        Raises:
            ArgumentsInvalid: the arguments do not fit.
            DefinitionError: it is no mapping, and no event.
            Unserialisable: it has no JSON form.
        """
        what = f"input of the function {self.name!r}"
        if isinstance(data, SentEvent) and self.by_event:
            return plain(data, what)
        if data is not None and not isinstance(data, Mapping):
            takes = "the event's data, or a SentEvent" if self.by_event else "its arguments by name"
            raise DefinitionError(f"{self!r} takes {takes}, as a mapping, not {data!r}.")
        given = cast("dict[str, Any]", plain(dict(cast("Mapping[str, Any]", data or {})), what))
        if self.signature is None:
            return plain(SentEvent(self.event or CRON_EVENT, given), what)
        self.signature.bind(given)
        return given

    async def enter(self, ctx: Context[Any], given: Any) -> Any:
        """Call the function with what its run was given."""
        if self.signature is not None:
            return await self.signature.call(self.fn, ctx, self.signature.bind(given))
        first = (ctx,) if self.takes_context else ()
        return await self.fn(*first, *((convert(given, SentEvent),) if self.takes_event else ()))

    def load(self, value: Any) -> Any:
        """Make what the function is said to return of what was kept.

        Raises:
            OutputInvalid: it does not fit; perhaps another version of the function has returned it.
        """
        if self.output_type in (Any, None, str, int, bool):
            return value
        try:
            adapter = self.cached("output", lambda: adapter_of(self.output_type, f"what {self!r} returns"))
            return adapter.validate_json(encode_json(value))
        except ValueError as error:
            raise OutputInvalid(f"What {self!r} has returned is not {self.output_type!r}: {error}") from error

    def lane(self, container: str, given: Any) -> str | None:
        """Say with which of its runs a run shares the limit of how many are active at once."""
        return None if self.concurrency is None else lane_of(self.name, self.concurrency.key, container, given)


def _returns(fn: Callable[..., Any]) -> Any:
    """What a function is said to return, as a type; Any if nothing that can be known is said."""
    said = inspect.signature(fn).return_annotation
    if said is EMPTY:
        return Any
    held = inspect.Parameter("returned", inspect.Parameter.POSITIONAL_ONLY, annotation=said)
    try:
        found = resolve(fn, [held], names_around(fn))[0].annotation
    except DefinitionError:
        return Any
    return None if found is type(None) else found
