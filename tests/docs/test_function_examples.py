"""The examples of durable functions run as they stand, offline."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name: str) -> list[str]:
    done = subprocess.run([sys.executable, EXAMPLES / name], check=True, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_nightly_function():
    assert run("nightly.py") == ["3 days, 400 sold", "report: 400 sold"]


def test_a_wait_of_three_weeks_outlives_the_process_that_began_it():
    assert run("three_weeks.py") == [
        "ordered for Ada",
        "the first process leaves, the run is waiting",
        "reminded Ada",
        "Ada was reminded",
    ]
