"""Usage adds up, and prices turn it into exact dollars."""

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import DefinitionError, Prices, Usage

counts = st.integers(0, 10**9)
costs = st.none() | st.decimals(0, 1000, places=6, allow_nan=False, allow_infinity=False)
usages = st.builds(Usage, counts, counts, counts, counts, counts, counts, counts, costs)


@given(usages, usages, usages)
def test_adding_is_field_by_field_in_any_order(a: Usage, b: Usage, c: Usage):
    total = a + b + c
    for name in Usage.__struct_fields__:
        values = [getattr(one, name) for one in (a, b, c)]
        known = [one for one in values if one is not None]
        assert getattr(total, name) == (sum(known) if known else None)
    assert total == a + (b + c) == c + b + a == sum([a, b, c], Usage())
    assert total.total_tokens == a.total_tokens + b.total_tokens + c.total_tokens


@given(usages)
def test_nothing_is_the_neutral_usage_and_json_keeps_every_digit(usage: Usage):
    assert usage + Usage() == usage == Usage() + usage
    assert msgspec.json.decode(msgspec.json.encode(usage), type=Usage) == usage


def test_an_unknown_cost_stays_unknown_and_a_known_one_is_kept():
    assert (Usage(1) + Usage(2)).cost is None
    assert (Usage(cost=Decimal("0.1")) + Usage(2)).cost == Decimal("0.1")
    assert (Usage(cost=Decimal("0.1")) + Usage(cost=Decimal("0.2"))).cost == Decimal("0.3")


PRICES = Prices(Decimal(3), Decimal(15), cache_read=Decimal("0.3"), cache_write=Decimal("3.75"))


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        (Usage(), "0"),
        (Usage(1_000_000, 0), "3"),
        (Usage(0, 1_000_000), "15"),
        (Usage(1, 1), "0.000018"),
        (Usage(1_000_000, 0, cache_read_tokens=1_000_000), "0.3"),
        (Usage(1_000_000, 0, cache_write_tokens=1_000_000), "3.75"),
        (Usage(1_000_000, 0, 400_000, 100_000), "1.995"),
        (Usage(0, 10, reasoning_tokens=10), "0.00015"),
        (Usage(10, 0, cache_read_tokens=30), "0.000009"),
    ],
)
def test_what_a_usage_costs(usage: Usage, cost: str):
    assert PRICES.cost(usage) == Decimal(cost)


def test_cached_input_costs_as_plain_input_unless_a_price_is_given():
    usage = Usage(1_000_000, 0, 400_000, 100_000)
    assert Prices(Decimal(3), Decimal(15)).cost(usage) == 3


@given(usages, usages)
def test_what_two_usages_cost_is_what_both_cost_together(a: Usage, b: Usage):
    plain = Prices(Decimal("1.25"), Decimal(10))
    if min(u.input_tokens - u.cache_read_tokens - u.cache_write_tokens for u in (a, b)) >= 0:
        assert plain.cost(a) + plain.cost(b) == plain.cost(a + b)


@pytest.mark.parametrize("written", [0.15, "0.15", Decimal("0.15")])
def test_prices_may_be_written_as_plain_numbers(written: Any):
    prices = Prices(written, 1, cache_read=written)  # pyright: ignore[reportArgumentType]
    assert prices == Prices(Decimal("0.15"), Decimal(1), Decimal("0.15"))
    assert prices.cost(Usage(1_000_000)) + Decimal("0.1") == Decimal("0.25")
    assert json.loads(msgspec.json.encode(prices))["input"] == "0.15"


@pytest.mark.parametrize("wrong", ["cheap", None, [1], -1, float("nan"), float("inf")])
def test_what_is_no_price_is_refused(wrong: Any):
    with pytest.raises(DefinitionError, match=r"Prices\(input=.*US dollars per million tokens"):
        Prices(wrong, Decimal(1))
