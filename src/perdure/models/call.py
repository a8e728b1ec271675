"""The impure side of every provider: keys, SDK clients, deadlines, failures and prices, once for all of them.

A provider is a pure mapping (encode a `ModelRequest`, decode the SDK's pieces) and a small subclass of
`ProviderModel` that says how to make a client and open a stream. The SDK is imported on first use. Each event loop has
a client of its own, closed with the loop, or earlier by `aclose`. The SDKs' own retries are off: a step retries.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import lru_cache
from typing import Any, ClassVar, TypedDict
from weakref import WeakKeyDictionary

import msgspec

from perdure.models.decoder import Decoder
from perdure.models.failures import SHORTEST_KEY, translate
from perdure.models.model import DEFAULT_SETTINGS, Capabilities, Model, ModelRequest, ModelSettings, prices_of
from perdure.types.chunks import ModelEvent, Used
from perdure.types.errors import BadResponse, ConfigurationError, MissingExtra, MissingKey, ModelError, ModelTimeout
from perdure.types.usage import Prices, Usage

CONNECT_TIMEOUT = 10.0
"""Seconds to wait for a connection; the answer itself may take as long as the settings say."""


def load_sdk(package: str, extra: str) -> Any:
    """Import a provider's SDK.

    Raises:
        MissingExtra: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        # A package that is there but lacks one of its own needs is another error, and says so itself.
        if error.name and (package == error.name or package.startswith(error.name + ".")):
            raise MissingExtra(package, extra) from error
        raise


class Secret:
    """A value that no repr, log or traceback shows."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(…)"


def read_key(provider: str, given: Secret | None, variables: tuple[str, ...]) -> Secret:
    """Find the API key: the one that was given, or the first of these environment variables that is set.

    Raises:
        MissingKey: there is none; the message names the variable to set.
    """
    if given is not None:
        return given
    for name in variables:
        value = os.environ.get(name, "").strip()
        if value:
            return Secret(value)
    if not variables:
        return Secret("")
    raise MissingKey(provider, variables[0])


def setting(provider: str, what: str, variable: str, argument: str) -> str:
    """Read something else that a provider needs from the environment.

    Raises:
        ConfigurationError: it is not set; the message names the variable and the argument.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise ConfigurationError(
            f"The provider {provider} needs {what}. Set the environment variable {variable}, or pass {argument}=..."
        )
    return value


class ModelOptions(TypedDict, total=False):
    """What every constructor of a model takes.

    `api_key` is read from the environment if not given; `base_url` is another address than the provider's own;
    `settings` are the model's own, under those of a run or agent; `headers` go with every request.
    """

    api_key: str | None
    base_url: str | None
    settings: ModelSettings | None
    prices: Prices | None
    headers: Mapping[str, str] | None


class ProviderModel(ABC):
    """A model behind an SDK: a subclass names the package and key, makes clients, opens streams, has a decoder.

    Args:
        name: the model's name at its provider.
        api_key: the key; without it, the provider's environment variable is read at the first call.
        base_url: another address than the provider's own.
        settings: settings of every call of this model; the settings of a run or agent are laid over them.
        prices: what its tokens cost; without it, the extra `prices` is asked.
        headers: HTTP headers to send with every request.
    """

    package: ClassVar[str] = ""
    extra: ClassVar[str] = ""

    provider: str = ""
    key_variables: tuple[str, ...] = ()
    capabilities: Capabilities = Capabilities()

    def __init__(
        self,
        name: str,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        settings: ModelSettings | None = None,
        prices: Prices | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.base_url = base_url
        self.settings = settings or DEFAULT_SETTINGS
        self.prices = prices
        self._headers = dict(headers or {})
        self._key = Secret(api_key) if api_key else None
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, _Open] = WeakKeyDictionary()

    def __repr__(self) -> str:
        address = f", base_url={self.base_url!r}" if self.base_url else ""
        return f"{type(self).__name__}({self.name!r}, provider={self.provider!r}{address})"

    # -- what a subclass says ---------------------------------------------------------------------------------------

    @abstractmethod
    def _connect(self, sdk: Any, key: str) -> Any:
        """Make the SDK's client, with its own retries switched off."""

    @abstractmethod
    async def _open(self, client: Any, request: ModelRequest) -> Any:
        """Send a request, whose settings are complete, and return the SDK's stream."""

    @abstractmethod
    def _decoder(self, request: ModelRequest) -> Decoder:
        """Make what reads the pieces of this stream."""

    @staticmethod
    async def _disconnect(client: Any) -> None:
        """Close the SDK's client."""
        await client.close()

    # -- the call ---------------------------------------------------------------------------------------------------

    def sdk(self) -> Any:
        """The provider's SDK, imported on first use."""
        return load_sdk(self.package, self.extra)

    def key(self) -> Secret:
        """The API key, looked up when it is needed."""
        return read_key(self.provider, self._key, self.key_variables)

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Answer a request, piece by piece.

        Raises:
            MissingExtra: the provider's SDK is not installed.
            MissingKey: there is no API key.
            ModelError: the call failed; its class says whether trying again can help.
        """
        settings = self.settings.merged(request.settings)
        request = msgspec.structs.replace(request, settings=settings)
        decoder = self._decoder(request)
        client = await self.client()
        deadline = asyncio.get_running_loop().time() + settings.timeout
        async with self._attempt(deadline, settings.timeout):
            source = await self._open(client, request)
        iterator = aiter(source)
        told = Usage()
        try:
            while True:
                wrong: ModelError | None = None
                events: list[ModelEvent] = []
                chunk: Any = None
                try:
                    # The deadline covers the waiting alone: it must not run into the consumer's code between two pieces
                    async with self._attempt(deadline, settings.timeout):
                        chunk = await anext(iterator, _END)
                        events = self._read(decoder, chunk)
                except ModelError as error:
                    wrong = error
                if (used := decoder.used()) != told and chunk is not _END:
                    told = used
                    yield Used(used)  # it counts even if the answer does not come to its end
                if wrong is not None:
                    raise wrong
                for event in events:
                    yield event
                if chunk is _END:
                    return
        finally:
            await _close(iterator)
            await _close(source)

    def _read(self, decoder: Decoder, chunk: Any) -> list[ModelEvent]:
        try:
            return list(decoder.end() if chunk is _END else decoder.feed(chunk))
        except ModelError:
            raise
        except Exception as error:  # servers send what no decoder foresaw
            said = f"a piece of the answer cannot be read ({type(error).__name__}: {error})"
            raise BadResponse(said, provider=self.provider, model=self.name) from error

    @asynccontextmanager
    async def _attempt(self, deadline: float, seconds: float) -> AsyncGenerator[None]:
        """Keep the time limit, and raise every failure of the SDK or the connection as a `ModelError`."""
        limit = asyncio.timeout_at(deadline)
        try:
            async with limit:
                yield
        except Exception as error:
            if limit.expired():
                late = f"no complete answer within {seconds:g} s"
                raise ModelTimeout(late, provider=self.provider, model=self.name) from error
            secret = self.key().value
            wrong = translate(error, provider=self.provider, model=self.name, secret=secret)
            if wrong is error or wrong is None:
                raise
            raise wrong from (None if len(secret) >= SHORTEST_KEY and secret in str(error) else error)

    # -- clients ----------------------------------------------------------------------------------------------------

    async def client(self) -> Any:
        """The SDK's client of the running event loop, made on first use."""
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None or found.client is None:
            found = self._clients[loop] = _Open(self._connect(self.sdk(), self.key().value))
            found.keeper = _keep(found, self._disconnect)
            await anext(found.keeper)
        return found.client

    async def aclose(self) -> None:
        """Close the client of the running event loop now; the next call makes a new one."""
        found = self._clients.pop(asyncio.get_running_loop(), None)
        if found is not None and found.keeper is not None:
            await found.keeper.aclose()


class _Open:
    """An open client. Closing lets go of all that refers to its event loop, which would never be freed otherwise."""

    __slots__ = ("client", "keeper")

    def __init__(self, client: Any) -> None:
        self.client: Any = client
        self.keeper: AsyncGenerator[None] | None = None


_END = object()


async def _keep(opened: _Open, close: Callable[[Any], Awaitable[None]]) -> AsyncGenerator[None]:
    """Hold a client open. An event loop closes its asynchronous generators when it ends, and so the client."""
    try:
        yield
    finally:
        client, opened.client, opened.keeper = opened.client, None, None
        await close(client)


async def _close(stream: Any) -> None:
    """Close a stream whose consumer may have walked away; each SDK calls it another name."""
    close = getattr(stream, "aclose", None) or getattr(stream, "close", None)
    if close is not None:
        await close()


# -- prices ---------------------------------------------------------------------------------------------------------

_PRICED = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "grok": "x-ai",
    "deepseek": "deepseek",
    "azure": "azure",
    "openrouter": "openrouter",
}


def price_of(model: Model, usage: Usage) -> Decimal | None:
    """Price a usage in US dollars: by the model's own prices, else by the extra `prices`.

    Returns:
        The cost that the usage has already, if it has one; for a chain of models otherwise that of the dearest. None
        where the price is not known, or the extra is not installed.
    """
    if usage.cost is not None:
        return usage.cost
    prices = prices_of(model)
    if prices is not None:
        return prices.cost(usage)
    chain: tuple[Model, ...] = getattr(model, "models", ())
    if chain:
        each = [price_of(one, usage) for one in chain]
        known = [one for one in each if one is not None]
        return max(known) if len(known) == len(each) else None
    provider = _PRICED.get(model.provider)
    return None if provider is None else _looked_up(provider, model.name, usage)


def _looked_up(provider: str, name: str, usage: Usage) -> Decimal | None:
    book = _price_book()
    if book is None:
        return None
    counted = book.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens or None,
        cache_write_tokens=usage.cache_write_tokens or None,
    )
    try:
        return book.calc_price(counted, name, provider_id=provider).total_price
    except LookupError:
        return None


@lru_cache(1)
def _price_book() -> Any:
    try:
        return importlib.import_module("genai_prices")
    except ModuleNotFoundError:
        return None
