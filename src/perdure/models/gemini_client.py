"""Connections to Gemini that close when their stream does.

The SDK leaves the connection of a stream that is not read to its end to the garbage collector. So its HTTP client is
made here, remembers the responses of each call, and a stream closes its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextvars import ContextVar
from typing import Any

from perdure.models.call import CONNECT_TIMEOUT, load_sdk
from perdure.types.errors import BadResponse, MissingExtra

# The responses of the call that is made in this context; the HTTP client tells of them, knowing nothing of calls.
_responses: ContextVar[list[Any] | None] = ContextVar("gemini_responses", default=None)


class GeminiClient:
    """The SDK's client, and the HTTP client that it uses."""

    def __init__(self, sdk: Any, key: str, base_url: str | None, headers: Mapping[str, str]) -> None:
        hooks = {"request": [_limit], "response": [_remember]}
        self.http = _http().AsyncClient(event_hooks=hooks, follow_redirects=True)
        options: dict[str, Any] = {
            "headers": dict(headers),
            "httpx_async_client": self.http,
            # The version that knows every field and model, and that other servers speak.
            "api_version": "v1beta",
        }
        if base_url:
            options["base_url"] = base_url
        # Told explicitly, because the environment could send it to another service.
        self.sdk = sdk.Client(api_key=key, vertexai=False, http_options=options)

    async def stream(self, model: str, body: dict[str, Any]) -> GeminiStream:
        """Send a body as a whole, just as it is on the wire."""
        config = {"http_options": {"extra_body": body}, "automatic_function_calling": {"disable": True}}
        # The SDK insists on contents of its own, which those of the body replace.
        source = await self.sdk.aio.models.generate_content_stream(model=model, contents="…", config=config)
        return GeminiStream(source, model)

    async def aclose(self) -> None:
        """Close all connections."""
        await self.sdk.aio.aclose()
        self.sdk.close()
        await self.http.aclose()


class GeminiStream:
    """The pieces of one answer as the SDK's objects; closing it closes the connection."""

    def __init__(self, source: AsyncGenerator[Any], model: str) -> None:
        self._source = source
        self._model = model
        self._responses: list[Any] = []

    def __aiter__(self) -> GeminiStream:
        return self

    async def __anext__(self) -> Any:
        token = _responses.set(self._responses)
        try:
            return await anext(self._source)
        except (TypeError, AttributeError, LookupError) as error:
            if not self._responses:
                raise  # a mistake in what was to be sent
            said = f"a piece of the answer cannot be read ({type(error).__name__}: {error})"
            raise BadResponse(said, provider="gemini", model=self._model) from error
        finally:
            _responses.reset(token)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._source.aclose()
        for response in self._responses:
            await response.aclose()


def _http() -> Any:
    try:
        return load_sdk("httpx2", "gemini")
    except MissingExtra:
        return load_sdk("httpx", "gemini")  # the SDK's choice in its earlier versions


async def _limit(request: Any) -> None:
    """Bound the time for connecting; the answer may take as long as the settings say."""
    request.extensions["timeout"] = {**request.extensions.get("timeout", {}), "connect": CONNECT_TIMEOUT}


async def _remember(response: Any) -> None:
    responses = _responses.get()
    if responses is not None:
        responses.append(response)
