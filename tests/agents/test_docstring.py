"""Docstrings of three styles: what a model is told of a tool and its parameters."""

from __future__ import annotations

import pytest

from tests.agents.reading import read


def numpy_style(city: str, days: int, unit: str) -> str:
    """Look up the weather.

    It is never wrong.

    Parameters
    ----------
    city : str
        where to look,
        in English
    days, unit : int
        both

    Returns
    -------
    str
        the weather

    Notes
    -----
    Slow.
    """
    return city


def sphinx_style(city: str, days: int, unit: str) -> str:
    """Look up the weather.

    It is never wrong.

    :param city: where to look,
        in English
    :param int days: both
    :param unit: both
    :type unit: str
    :returns: the weather
    :raises ValueError: never
    """
    return city


def google_style(city: str, days: int, unit: str, *rest: int) -> str:
    """Look up the weather.

    It is never wrong.

    Args:
        city (str): where to look,
            in English
        days (dict(str, int), optional): both
        unit: both
        *rest: the rest: all of it

    Returns:
        the weather

    Raises:
        ValueError: never

    Example:
        weather("Oslo")
    """
    return city


@pytest.mark.parametrize("fn", [numpy_style, sphinx_style, google_style])
def test_docstrings_of_three_styles(fn):
    signature = read(fn)
    properties = signature.parameters["properties"]
    assert properties["city"]["description"] == "where to look, in English"
    assert properties["days"]["description"] == "both"
    assert properties["unit"]["description"] == "both"
    assert signature.description.startswith("Look up the weather.\n\nIt is never wrong.")
    assert "never\n" not in signature.description
    assert "the weather\n" not in signature.description


def test_other_sections_stay_in_the_description():
    assert read(numpy_style).description.endswith("Notes\n-----\nSlow.")
    assert read(google_style).description.endswith('Example:\n    weather("Oslo")')
    assert read(google_style).parameters["properties"]["rest"]["description"] == "the rest: all of it"
    assert read(sphinx_style).description == "Look up the weather.\n\nIt is never wrong."


def test_no_docstring_is_an_empty_description():
    def bare(city: str) -> str:
        return city

    assert read(bare).description == ""
