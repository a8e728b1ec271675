"""Each promise in docs/durability.md stands beside tests that are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "durability.md").read_text()


def test_every_promise_names_tests_that_exist():
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        if "node_modules" not in path.parts
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named and not named - there, sorted(named - there)


def test_every_promise_is_beside_a_test():
    rows = [line for line in PAGE.split("## Beside others")[0].splitlines() if line.startswith("| ")]
    told = [line for line in rows if not re.match(r"\| (promise|effect) \|", line)]
    assert told and all("`test_" in line for line in told), [line for line in told if "`test_" not in line]
