"""Models by name, and what importing the room costs."""

import subprocess
import sys

import pytest

from perdure import models
from perdure.models import (
    Capabilities,
    Model,
    ModelSettings,
    anthropic,
    azure,
    compatible,
    deepseek,
    fallback,
    gemini,
    grok,
    model_from_environment,
    offline,
    ollama,
    openai,
    openai_chat,
    openrouter,
    resolve_model,
)
from perdure.types.errors import DefinitionError

KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "GOOGLE_API_KEY", "XAI_API_KEY")


@pytest.mark.parametrize(
    ("text", "kind", "provider", "name"),
    [
        ("openai:gpt-5-mini", "OpenAIModel", "openai", "gpt-5-mini"),
        ("openai-chat:gpt-5-mini", "OpenAIChatModel", "openai", "gpt-5-mini"),
        ("anthropic:claude-haiku-4-5", "AnthropicModel", "anthropic", "claude-haiku-4-5"),
        ("gemini:gemini-2.5-flash", "GeminiModel", "gemini", "gemini-2.5-flash"),
        ("grok:grok-4", "OpenAIChatModel", "grok", "grok-4"),
        ("deepseek:deepseek-chat", "OpenAIChatModel", "deepseek", "deepseek-chat"),
        ("azure:my-deployment", "AzureChatModel", "azure", "my-deployment"),
        ("openrouter:meta/llama-4:free", "OpenAIChatModel", "openrouter", "meta/llama-4:free"),
        ("ollama:qwen3:8b", "OpenAIChatModel", "ollama", "qwen3:8b"),
        ("offline", "OfflineModel", "offline", "offline"),
        (" openai:gpt-5 ", "OpenAIModel", "openai", "gpt-5"),
    ],
)
def test_names(text, kind, provider, name) -> None:
    model = resolve_model(text)
    assert (type(model).__name__, model.provider, model.name) == (kind, provider, name)
    assert isinstance(model, Model)
    assert resolve_model(text) is model  # one client for all who name it


def test_a_model_is_its_own() -> None:
    model = ollama("x")
    assert resolve_model(model) is model


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gpt-5-mini", "names no provider"),
        ("acme:gpt", "unknown provider 'acme'"),
        ("openai:", "no model"),
        ("openai", "no model"),
        ("", "names no provider"),
    ],
)
def test_a_wrong_name_says_what_is_known(text, problem) -> None:
    with pytest.raises(DefinitionError, match=problem) as raised:
        resolve_model(text)
    for known in ("openai", "openai-chat", "anthropic", "gemini", "grok", "deepseek", "azure", "ollama", "offline"):
        assert known in str(raised.value)


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(DefinitionError, match="7"):
        resolve_model(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "url", "variables"),
    [
        (grok, "https://api.x.ai/v1", ("XAI_API_KEY",)),
        (deepseek, "https://api.deepseek.com", ("DEEPSEEK_API_KEY",)),
        (openrouter, "https://openrouter.ai/api/v1", ("OPENROUTER_API_KEY",)),
        (ollama, "http://localhost:11434/v1", ()),
    ],
)
def test_presets(make, url, variables) -> None:
    model = make("x")
    assert (model.base_url, model.key_variables) == (url, variables)
    assert make("x", base_url="http://other").base_url == "http://other"


@pytest.mark.parametrize(
    "make", [openai, openai_chat, anthropic, gemini, grok, deepseek, azure, openrouter, ollama, compatible]
)
def test_every_constructor_takes_the_same(make) -> None:
    prices = models.Prices(1, 2)  # type: ignore[arg-type]
    settings = ModelSettings(temperature=0.5)
    model = make(
        "x", api_key="sk-secret-key", base_url="http://host/v1", settings=settings, prices=prices, headers={"A": "b"}
    )
    assert model.name == "x"
    assert model.prices is prices
    assert model.settings is settings
    assert model.base_url == "http://host/v1"
    assert "secret" not in repr(model) + repr(vars(model))


def test_a_compatible_server_needs_an_address() -> None:
    with pytest.raises(DefinitionError, match="base_url"):
        compatible("x")
    model = compatible("x", base_url="http://host/v1", capabilities=Capabilities(prefill=True))
    assert model.capabilities.prefill
    assert compatible("x", base_url="http://host/v1").capabilities.structured_output == "yes"


@pytest.mark.parametrize(
    ("keys", "provider"),
    [
        ((), None),
        (("XAI_API_KEY",), "grok"),
        (("XAI_API_KEY", "GOOGLE_API_KEY"), "gemini"),
        (("XAI_API_KEY", "GEMINI_API_KEY"), "gemini"),
        (("GEMINI_API_KEY", "ANTHROPIC_API_KEY"), "anthropic"),
        (KEYS, "openai"),
    ],
)
def test_the_first_key_in_the_environment_decides(keys, provider, monkeypatch) -> None:
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    for name in keys:
        monkeypatch.setenv(name, "k")
    model = model_from_environment()
    assert (model.provider if model else None) == provider


def test_an_empty_key_counts_as_none(monkeypatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, " ")
    assert model_from_environment() is None


def test_constructors_stay_themselves_when_their_files_are_imported() -> None:
    import importlib

    for name in ("anthropic", "gemini", "fallback", "offline", "openai_chat"):
        importlib.import_module(f"perdure.models.{name}")
        assert callable(getattr(models, name))
    assert models.fallback is fallback
    assert models.offline is offline
    with pytest.raises(AttributeError, match="no_such"):
        models.no_such  # noqa: B018
    assert "openai" in dir(models)


def test_importing_the_room_and_naming_a_model_loads_no_sdk() -> None:
    program = """
import sys
import perdure.models
from perdure.models import resolve_model, openai, ModelRequest
for name in ("openai:a", "openai-chat:a", "anthropic:a", "gemini:a", "grok:a", "azure:a", "offline"):
    resolve_model(name)
loaded = {"openai", "anthropic", "google.genai", "httpx", "httpx2", "genai_prices"} & set(sys.modules)
sys.exit(f"loaded: {loaded}" if loaded else 0)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
