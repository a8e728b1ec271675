"""Keys, SDKs and prices; the call itself is tested on the wire."""

import sys
from decimal import Decimal

import pytest

from perdure.models import ModelRequest, ModelSettings, Prices, Usage, azure, fallback, openai, openai_chat, price_of
from perdure.models import call as call_module
from perdure.models.call import Secret, load_sdk, read_key
from perdure.types.errors import ConfigurationError, MissingExtra, MissingKey
from perdure.types.messages import user

MILLION = Usage(input_tokens=1_000_000, output_tokens=1_000_000)


async def ask(model) -> list:
    return [piece async for piece in model.stream(ModelRequest((user("Hi"),)))]


def test_a_missing_package_names_the_command(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtra, match=r"pip install 'perdure\[openai\]'"):
        load_sdk("openai", "openai")
    with pytest.raises(MissingExtra, match=r"pip install 'perdure\[x\]'"):
        load_sdk("no_such_package.part", "x")


def test_a_broken_package_says_what_it_lacks(tmp_path, monkeypatch) -> None:
    (tmp_path / "half_installed.py").write_text("import something_it_needs\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="something_it_needs"):
        load_sdk("half_installed", "x")


async def test_a_missing_key_names_the_variable(monkeypatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(MissingKey, match="OPENAI_API_KEY"):
        await ask(openai("gpt-5-mini"))
    monkeypatch.setenv("OPENAI_API_KEY", "  ")
    with pytest.raises(MissingKey, match="OPENAI_API_KEY"):
        await ask(openai_chat("gpt-5-mini"))


async def test_azure_says_what_it_needs(monkeypatch) -> None:
    for name in ("AZURE_OPENAI_API_KEY", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(MissingKey, match="AZURE_OPENAI_API_KEY"):
        await ask(azure("d"))
    with pytest.raises(ConfigurationError, match=r"AZURE_OPENAI_ENDPOINT.*endpoint="):
        await ask(azure("d", api_key="k"))
    with pytest.raises(ConfigurationError, match=r"OPENAI_API_VERSION.*api_version="):
        await ask(azure("d", api_key="k", endpoint="https://example.com"))


def test_keys_come_from_the_argument_or_the_first_variable_that_is_set(monkeypatch) -> None:
    monkeypatch.delenv("FIRST", raising=False)
    monkeypatch.setenv("SECOND", " two\n")
    assert read_key("p", Secret("one"), ("FIRST", "SECOND")).value == "one"
    assert read_key("p", None, ("FIRST", "SECOND")).value == "two"
    assert read_key("p", None, ()).value == ""
    assert "one" not in repr(Secret("one"))


def test_a_models_own_prices_come_first() -> None:
    model = openai("gpt-5-mini", prices=Prices(Decimal(1), Decimal(2)))
    assert price_of(model, MILLION) == Decimal(3)
    assert price_of(model, Usage(cost=Decimal(7))) == Decimal(7)


def test_known_prices_are_looked_up() -> None:
    cost = price_of(openai_chat("gpt-4o-mini"), MILLION)
    assert cost is not None
    assert Decimal("0.1") < cost < Decimal(10)
    half_cached = Usage(input_tokens=1_000_000, output_tokens=1_000_000, cache_read_tokens=500_000)
    assert (price_of(openai("gpt-4o-mini"), half_cached) or 0) < cost
    assert price_of(openai("no-such-model"), MILLION) is None


def test_unknown_prices_are_none(monkeypatch) -> None:
    from perdure.models import ollama

    assert price_of(ollama("llama3"), MILLION) is None
    monkeypatch.setitem(sys.modules, "genai_prices", None)
    call_module._price_book.cache_clear()
    try:
        assert price_of(openai("gpt-4o-mini"), MILLION) is None
    finally:
        call_module._price_book.cache_clear()


def test_a_chain_costs_at_most_what_its_dearest_model_costs() -> None:
    cheap = openai("a", prices=Prices(Decimal(1), Decimal(1)))
    dear = openai("b", prices=Prices(Decimal(2), Decimal(2)))
    assert price_of(fallback(cheap, dear), MILLION) == Decimal(4)
    assert price_of(fallback(cheap, openai("no-such-model")), MILLION) is None


def test_settings_of_a_call_go_over_those_of_the_model() -> None:
    model = openai("m", settings=ModelSettings(temperature=0.1, max_tokens=5))
    assert model.settings.merged(ModelSettings(max_tokens=9)) == ModelSettings(temperature=0.1, max_tokens=9)
