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


def test_importing_loads_no_sdk_server_database_or_terminal(report: dict[str, Any]) -> None:
    assert report["forbidden_modules_loaded"] == []


def test_the_core_install_brings_at_most_twelve_distributions(report: dict[str, Any]) -> None:
    assert {"perdure", "msgspec", "pydantic", "rich"} <= set(report["core_distributions"]["names"])
    assert report["core_distributions"]["count"] <= 12
