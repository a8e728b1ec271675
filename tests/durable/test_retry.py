"""How long is waited between attempts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.durable.retry import MODEL_BACKOFF, TOOL_BACKOFF, Backoff


@given(st.integers(1, 60))
def test_waits_double_up_to_the_most_and_are_shortened_by_at_most_a_half(attempt: int):
    backoff = Backoff(first=0.5, most=60)
    longest = min(60, 0.5 * 2 ** (attempt - 1))
    assert longest / 2 <= backoff.wait(attempt) <= longest


def test_waits_differ_so_that_many_do_not_come_back_together():
    assert len({MODEL_BACKOFF.wait(5) for _ in range(20)}) > 1


@pytest.mark.parametrize(("asked", "waited"), [(0, 0), (7.5, 7.5), (600, 600), (100_000, 600), (-3, 0)])
def test_what_the_other_side_asks_for_is_kept_to_up_to_ten_minutes(asked: float, waited: float):
    assert MODEL_BACKOFF.wait(1, asked) == waited
    assert TOOL_BACKOFF.wait(9, asked) == waited


@pytest.mark.parametrize("attempt", [1_000, 100_000])
def test_very_many_attempts_do_not_overflow(attempt: int):
    assert MODEL_BACKOFF.wait(attempt) <= MODEL_BACKOFF.most
