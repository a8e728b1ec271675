"""Chat models behind one protocol.

A model is asked with a `ModelRequest`, a plain value, and streams pieces of its answer; the last is `Finished`. Each
provider is a pure mapping in both directions (`openai_responses`, `openai_chat`, `anthropic`, `gemini`); what they
share (SDKs on first use, keys, clients per event loop, deadlines, failures as `ModelError`s, prices) is in `call`.
Models are made by the constructors here, or named: `"openai:gpt-5-mini"`, `"anthropic:…"`, `"gemini:…"`, `"grok:…"`,
`"deepseek:…"`, `"azure:…"`, `"openrouter:…"`, `"ollama:…"`, `"offline"`. Importing this room loads no SDK.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.models.call import price_of as price_of
    from perdure.models.model import Capabilities as Capabilities
    from perdure.models.model import Model as Model
    from perdure.models.model import ModelRequest as ModelRequest
    from perdure.models.model import ModelSettings as ModelSettings
    from perdure.models.model import OutputSpec as OutputSpec
    from perdure.models.model import ToolSpec as ToolSpec
    from perdure.models.offline import OfflineModel as OfflineModel
    from perdure.models.resolve import anthropic as anthropic
    from perdure.models.resolve import azure as azure
    from perdure.models.resolve import compatible as compatible
    from perdure.models.resolve import deepseek as deepseek
    from perdure.models.resolve import fallback as fallback
    from perdure.models.resolve import gemini as gemini
    from perdure.models.resolve import grok as grok
    from perdure.models.resolve import model_from_environment as model_from_environment
    from perdure.models.resolve import offline as offline
    from perdure.models.resolve import ollama as ollama
    from perdure.models.resolve import openai as openai
    from perdure.models.resolve import openai_chat as openai_chat
    from perdure.models.resolve import openrouter as openrouter
    from perdure.models.resolve import resolve_model as resolve_model
    from perdure.types.chunks import Finished as Finished
    from perdure.types.chunks import ModelEvent as ModelEvent
    from perdure.types.chunks import ReasoningChunk as ReasoningChunk
    from perdure.types.chunks import Restarted as Restarted
    from perdure.types.chunks import TextChunk as TextChunk
    from perdure.types.chunks import ToolCallChunk as ToolCallChunk
    from perdure.types.chunks import Used as Used
    from perdure.types.usage import Prices as Prices
    from perdure.types.usage import Usage as Usage

_HOMES = {
    "perdure.models.call": ("price_of",),
    "perdure.models.model": ("Capabilities", "Model", "ModelRequest", "ModelSettings", "OutputSpec", "ToolSpec"),
    "perdure.models.offline": ("OfflineModel",),
    "perdure.models.resolve": (
        *("openai", "openai_chat", "anthropic", "gemini", "grok", "deepseek", "azure", "openrouter", "ollama"),
        *("compatible", "fallback", "offline", "resolve_model", "model_from_environment"),
    ),
    "perdure.types.chunks": (
        *("Finished", "ModelEvent", "ReasoningChunk", "Restarted", "TextChunk", "ToolCallChunk", "Used"),
    ),
    "perdure.types.usage": ("Prices", "Usage"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted(_HOME)


class _Room(ModuleType):
    """Some constructors are named like the file behind them; importing the file must not take their place."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _HOME or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Room
