from typing import Any

import pytest

from perdure.models.model import DEFAULT_SETTINGS, ModelSettings
from perdure.types.errors import DefinitionError


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", "5"),
        ("max_tokens", True),
        ("temperature", "hot"),
        ("temperature", -1),
        ("top_p", "0.5"),
        ("stop", "END"),
        ("stop", (1,)),
        ("seed", 1.5),
        ("reasoning", "hard"),
        ("reasoning", -1),
        ("parallel_tool_calls", "no"),
        ("cache", 1),
        ("timeout", 0),
        ("timeout", None),
        ("timeout", float("nan")),
        ("retries", -1),
        ("retries", 2.5),
        ("extra", [("a", 1)]),
    ],
)
def test_a_wrong_setting_is_refused_where_it_is_made(name: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=rf"ModelSettings\({name}=.*: give "):
        ModelSettings(**{name: value})


def test_settings_of_every_right_kind_are_taken() -> None:
    settings = ModelSettings(
        max_tokens=1,
        temperature=0,
        top_p=0.5,
        stop=("END",),
        seed=-1,
        reasoning=2000,
        parallel_tool_calls=False,
        cache=False,
        timeout=0.5,
        retries=0,
        extra={"a": None},
    )
    assert DEFAULT_SETTINGS.merged(settings) == settings
    assert settings.merged(ModelSettings(reasoning="high")).reasoning == "high"
