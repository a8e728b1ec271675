"""Ids: made to sort, derived to be found again, given and checked."""

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import InvalidId, PerdureError
from perdure.types import ids
from perdure.types.ids import check_id, derive_id, new_id


def test_new_ids_are_unique_and_sort_by_the_time_they_were_made(monkeypatch: pytest.MonkeyPatch):
    assert len({new_id("run") for _ in range(5_000)}) == 5_000
    made: list[str] = []
    for milliseconds in (0, 1, 999, 1_700_000_000_000, 1_700_000_000_001, 2**47):
        monkeypatch.setattr(ids.time, "time_ns", lambda now=milliseconds: now * 1_000_000)
        made.append(new_id("run"))
    assert made == sorted(made)
    assert {len(one) for one in made} == {len("run_") + 28}


def test_made_ids_are_allowed():
    assert check_id(new_id("session"), "session_id").startswith("session_")
    assert check_id(derive_id("run", "a", "b"), "run_id").startswith("run_")


def test_a_derived_id_follows_from_its_parts_and_their_order():
    assert derive_id("run", "a", "b") == derive_id("run", "a", "b")
    others = [("a", "c"), ("b", "a"), ("ab",), ("a", "b", ""), ("", "a", "b"), ("a b",)]
    assert len({derive_id("run", *one) for one in [("a", "b"), *others]}) == len(others) + 1
    assert derive_id("wait", "a", "b") != derive_id("run", "a", "b")


@given(st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.:@|+=~-]{0,199}", fullmatch=True))
def test_allowed_ids_come_back_as_they_are(value: str):
    assert check_id(value, "session_id") is value


@pytest.mark.parametrize(
    "wrong",
    ["", " ", "a b", "../x", "..", ".", "a/b", "a\\b", "-x", ".x", "~x", "a\0b", "a\n", "\n", "ä", "a\u202eb", "\ud800",
     "a" * 201, "x" * 10_000, "٣", 5, None, b"a", ["a"]],
)  # fmt: skip
def test_other_ids_are_refused_with_what_is_allowed(wrong: Any):
    with pytest.raises(InvalidId, match=r"session_id .* is not allowed: use 1 to 200 ASCII letters") as refused:
        check_id(wrong, "session_id")
    assert isinstance(refused.value, PerdureError) and isinstance(refused.value, ValueError)
    assert len(str(refused.value)) < 300


@given(st.text())
def test_an_id_is_allowed_or_refused_and_never_changed(value: str):
    try:
        assert check_id(value, "run_id") == value
        assert value.isascii() and "/" not in value and 0 < len(value) <= 200
    except InvalidId:
        pass


def test_a_forked_process_gives_other_ids():
    forks = """
import os
from perdure.types.ids import new_id
new_id("run")
child = os.fork()
os.write(1, (new_id("run")[-16:] + "\\n").encode())
child and os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-c", forks], capture_output=True, text=True, check=True, timeout=60)
    assert len(set(done.stdout.split())) == 2
