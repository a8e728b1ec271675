"""d31: the assertions of durability and the rules for hard cases have tests with their numbers, on every store.

So have numbered behaviours, on some store: of the runtime (x), of agents, their history and durability (b), and of
sessions (m).
"""

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
STORES = {"url", "rt", "processes", "address", "log", "story", "postgres_url"}
"""What a test takes that happens on SQLite and on PostgreSQL."""
NUMBERS = {f"d{n:02}" for n in range(1, 31)} | {f"r{n:02}" for n in range(1, 21)}
BEHAVIOURS = {
    *(f"x{n:02}" for n in range(1, 41)),
    *(f"b{n:02}" for n in (*range(1, 44), *range(49, 56))),
    *(f"m{n:02}" for n in range(1, 11)),
}
ONE = {
    "d25": "what of a SQLite file may be lost with the power; PostgreSQL's own log is PostgreSQL's affair",
    "d30": "the simulator, whose store is a file",
    "r07": "how steps are called, which no store is asked for",
}
"""Those that are of one store, or of none."""


def numbers() -> dict[str, set[str]]:
    """What the tests that carry a number take, by number."""
    found: dict[str, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                for number in re.findall(r"_([bdmrx]\d\d)(?=_)", node.name):
                    found.setdefault(number, set()).update(one.arg for one in node.args.args)
    return found


def test_d31_every_assertion_and_rule_has_a_test_on_each_store_that_carries_its_number() -> None:
    found = numbers()
    assert NUMBERS - found.keys() == set()
    assert {one for one in NUMBERS - ONE.keys() if not found[one] & STORES} == set()


def test_every_numbered_behaviour_has_a_test_that_carries_its_number() -> None:
    assert BEHAVIOURS - numbers().keys() == set()
