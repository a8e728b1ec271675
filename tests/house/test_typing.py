"""What users' type checkers infer is part of the API: `tests/typing` is checked here as well as by `make check`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )


def test_pyright_infers_what_is_promised() -> None:
    checked = run("pyright", "tests/typing")
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_mypy_takes_the_annotated_programs() -> None:
    checked = run("mypy")
    assert checked.returncode == 0, checked.stdout + checked.stderr
