"""The core stays small: what it installs and what it loads."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parents[2] / "bench" / "import.py"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    command = [sys.executable, str(BENCH), "--json", "--rounds", "1"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def test_definitions_load_nothing_that_runs_them(report: dict[str, Any]) -> None:
    """Neither SDK, server, database, terminal nor event loop, and of our own only what says what a definition is."""
    loaded = report["modules_loaded"]["from perdure import Agent, Network, tool"]
    assert loaded["forbidden"] == []
    assert {name.split(".")[1] for name in loaded["own"]} == {"agents", "durable", "models", "types"}
    assert {name for name in loaded["own"] if name.startswith("perdure.durable.")} == {"perdure.durable.people"}
    assert len(loaded["own"]) <= 36, loaded["own"]


def test_a_runtime_is_there_before_what_it_is_made_of(report: dict[str, Any]) -> None:
    """Databases, log, worker, bus and images are loaded when the first runtime is made, not with the class."""
    before, after = report["modules_loaded"].values()
    assert after["forbidden"] == []
    own = {name.removeprefix("perdure.") for name in {*after["own"]} - {*before["own"]}}
    assert own == {
        "agents.by_name",
        "agents.in_sync",
        "db",
        "db.database",
        "runtime",
        "runtime.bus_doors",
        "runtime.doors",
        "runtime.image_names",
        "runtime.of_default",
        "runtime.requests",
        "runtime.runtime",
    }


def test_the_core_install_brings_at_most_twelve_distributions(report: dict[str, Any]) -> None:
    assert {"perdure", "msgspec", "pydantic", "rich"} <= set(report["core_distributions"]["names"])
    assert report["core_distributions"]["count"] <= 12
