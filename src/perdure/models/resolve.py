"""Models by name: `"openai:gpt-5-mini"`, the constructors behind such names, and what the environment has a key for.

Most providers speak the wire of OpenAI's Chat Completions; they are rows of a table. The mappings and SDKs are imported
when a model is made or first called, so that importing this costs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Unpack

from perdure.models.model import Capabilities, Model
from perdure.types.base import Base
from perdure.types.errors import DefinitionError

if TYPE_CHECKING:
    from perdure.models.anthropic import AnthropicModel
    from perdure.models.call import ModelOptions
    from perdure.models.fallback import FallbackModel
    from perdure.models.gemini import GeminiModel
    from perdure.models.offline import OfflineModel
    from perdure.models.openai_chat import AzureChatModel, OpenAIChatModel
    from perdure.models.openai_responses import OpenAIModel


class _Preset(Base):
    """A provider that speaks the wire of Chat Completions."""

    base_url: str
    key_variables: tuple[str, ...]
    capabilities: Capabilities
    dialect: Mapping[str, Any]


_PRESETS = {
    "grok": _Preset(
        "https://api.x.ai/v1",
        ("XAI_API_KEY",),
        Capabilities(structured_output="yes"),
        {"max_tokens": "max_completion_tokens"},
    ),
    # Its schemas for tools are not to be relied on in strict mode, and it has no form of its own for answers.
    "deepseek": _Preset(
        "https://api.deepseek.com",
        ("DEEPSEEK_API_KEY",),
        Capabilities(),
        {"effort": "thinking", "returns": "reasoning_content"},
    ),
    "openrouter": _Preset(
        "https://openrouter.ai/api/v1",
        ("OPENROUTER_API_KEY",),
        Capabilities(structured_output="yes"),
        {"effort": "reasoning", "returns": "reasoning_details"},
    ),
    "ollama": _Preset("http://localhost:11434/v1", (), Capabilities(structured_output="yes"), {}),
    "compatible": _Preset("", (), Capabilities(structured_output="yes"), {}),
}


def openai(name: str, **options: Unpack[ModelOptions]) -> OpenAIModel:
    """A model of OpenAI, by its Responses API; the key is OPENAI_API_KEY."""
    from perdure.models.openai_responses import OpenAIModel

    return OpenAIModel(name, **options)


def openai_chat(name: str, **options: Unpack[ModelOptions]) -> OpenAIChatModel:
    """A model of OpenAI, by its older Chat Completions API; the key is OPENAI_API_KEY."""
    from perdure.models.openai_chat import OpenAIChatModel

    return OpenAIChatModel(name, **options)


def anthropic(name: str, **options: Unpack[ModelOptions]) -> AnthropicModel:
    """A model of Anthropic; the key is ANTHROPIC_API_KEY."""
    from perdure.models.anthropic import AnthropicModel

    return AnthropicModel(name, **options)


def gemini(name: str, **options: Unpack[ModelOptions]) -> GeminiModel:
    """A Gemini model of Google; the key is GEMINI_API_KEY or GOOGLE_API_KEY."""
    from perdure.models.gemini import GeminiModel

    return GeminiModel(name, **options)


def grok(name: str, **options: Unpack[ModelOptions]) -> OpenAIChatModel:
    """A model of xAI; the key is XAI_API_KEY."""
    return _preset("grok", name, options)


def deepseek(name: str, **options: Unpack[ModelOptions]) -> OpenAIChatModel:
    """A model of DeepSeek; the key is DEEPSEEK_API_KEY."""
    return _preset("deepseek", name, options)


def openrouter(name: str, **options: Unpack[ModelOptions]) -> OpenAIChatModel:
    """A model by way of OpenRouter, such as `anthropic/claude-sonnet-4.5`; the key is OPENROUTER_API_KEY."""
    return _preset("openrouter", name, options)


def ollama(name: str, **options: Unpack[ModelOptions]) -> OpenAIChatModel:
    """A model that a local Ollama serves; no key is needed."""
    return _preset("ollama", name, options)


def compatible(
    name: str, *, capabilities: Capabilities | None = None, **options: Unpack[ModelOptions]
) -> OpenAIChatModel:
    """A model behind any server that speaks the wire of Chat Completions.

    Args:
        name: the model's name at that server.
        capabilities: what it can do; structured output by JSON schema, unless said otherwise.
        options: `base_url` is needed; a key only if the server wants one.

    Raises:
        DefinitionError: `base_url` is missing.
    """
    if not options.get("base_url"):
        raise DefinitionError(
            "A compatible model needs the address of its server: pass base_url='http://host:port/v1'."
        )
    return _preset("compatible", name, options, capabilities)


def azure(
    name: str, *, endpoint: str | None = None, api_version: str | None = None, **options: Unpack[ModelOptions]
) -> AzureChatModel:
    """A model deployed at Azure; the key is AZURE_OPENAI_API_KEY.

    Args:
        name: the deployment.
        endpoint: the resource's address, else AZURE_OPENAI_ENDPOINT.
        api_version: such as `2025-04-01-preview`, else OPENAI_API_VERSION.
        options: as for every model.
    """
    from perdure.models.openai_chat import AzureChatModel

    return AzureChatModel(name, endpoint=endpoint, api_version=api_version, **options)


def offline() -> OfflineModel:
    """The small deterministic model that needs no provider: it looks up and quotes."""
    from perdure.models.offline import OfflineModel

    return OfflineModel()


def fallback(*models: Model | str, on: Callable[[Exception], bool] | None = None) -> FallbackModel:
    """A chain of models: when one fails, the next is asked.

    Args:
        models: at least two, as objects or names; the first is asked first.
        on: decides whether a failure is a reason to go on; by default what may pass, a refused or missing key, a
            model that does not exist.
    """
    from perdure.models.fallback import FallbackModel, unavailable

    return FallbackModel(tuple(resolve_model(one) for one in models), on or unavailable)


def _preset(
    provider: str, name: str, options: ModelOptions, capabilities: Capabilities | None = None
) -> OpenAIChatModel:
    from perdure.models.openai_chat import Dialect, OpenAIChatModel

    preset = _PRESETS[provider]
    options = {**options, "base_url": options.get("base_url") or preset.base_url}
    return OpenAIChatModel(
        name,
        **options,
        provider=provider,
        key_variables=preset.key_variables,
        capabilities=capabilities or preset.capabilities,
        dialect=Dialect(**preset.dialect),
    )


# -- names ----------------------------------------------------------------------------------------------------------

_PROVIDERS: dict[str, Callable[..., Model]] = {
    "openai": openai,
    "openai-chat": openai_chat,
    "anthropic": anthropic,
    "gemini": gemini,
    "grok": grok,
    "deepseek": deepseek,
    "azure": azure,
    "openrouter": openrouter,
    "ollama": ollama,
}

_DEFAULTS = (
    ("OPENAI_API_KEY", "openai:gpt-6-luna"),
    ("ANTHROPIC_API_KEY", "anthropic:claude-haiku-5-5"),
    ("GEMINI_API_KEY", "gemini:gemini-flash-latest"),
    ("GOOGLE_API_KEY", "gemini:gemini-flash-latest"),
    ("XAI_API_KEY", "grok:grok-4.7"),
)


def resolve_model(model: Model | str) -> Model:
    """Find the model that is meant.

    Args:
        model: a model, which is returned as it is, or `"provider:name"`, or `"offline"`. The same string always gives
            the same object, so its connections are shared.

    Raises:
        DefinitionError: the string has no provider or an unknown one; the message lists those that are known.
    """
    if isinstance(model, str):
        return _named(model.strip())
    if not callable(getattr(model, "stream", None)):
        raise DefinitionError(f"A model is an object with a stream method, or 'provider:name'; this is {model!r}.")
    return model


@lru_cache(256)
def _named(text: str) -> Model:
    if text == "offline":
        return offline()
    provider, colon, name = text.partition(":")
    make = _PROVIDERS.get(provider)
    if make is not None and colon and name:
        return make(name)
    if make is not None:
        problem = f"names the provider {provider!r} but no model"
    elif colon:
        problem = f"names the unknown provider {provider!r}"
    else:
        problem = "names no provider"
    raise DefinitionError(
        f"The model {text!r} {problem}. Write it as provider:name, such as 'openai:gpt-5-mini'. "
        f"Known providers: {', '.join(_PROVIDERS)}; and 'offline'. "
        "For any other server of the OpenAI wire use perdure.models.compatible(name, base_url=...)."
    )


def model_from_environment() -> Model | None:
    """The default model of the first provider that has a key in the environment, or None.

    The order is OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY (or GOOGLE_API_KEY), XAI_API_KEY.
    """
    for variable, model in _DEFAULTS:
        if os.environ.get(variable, "").strip():
            return resolve_model(model)
    return None
