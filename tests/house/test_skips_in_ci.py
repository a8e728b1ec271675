"""In CI a skipped test fails the run and is named; elsewhere it does not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
def test_runs(): pass
@pytest.mark.skip(reason="no node here")
def test_marked(): pass
def test_skips_itself(): pytest.skip("no server here")
"""
MODULE = "import pytest\npytest.skip('no package here', allow_module_level=True)\n"


def run_pytest(folder: Path, ci: str, *args: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"), encoding="utf-8")
    env = {**os.environ, "CI": ci}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder), *args, str(folder)]
    return subprocess.run(command, env=env, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_skip_fails_in_ci(tmp_path: Path, workers: tuple[str, ...]) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    (tmp_path / "test_module.py").write_text(MODULE, encoding="utf-8")
    result = run_pytest(tmp_path, "true", *workers)
    assert result.returncode == 1, result.stdout
    for part in ("test_marked: Skipped: no node here", "test_skips_itself", "no server here", "no package here"):
        assert part in result.stdout


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])
def test_a_skip_passes_elsewhere(tmp_path: Path, workers: tuple[str, ...]) -> None:
    (tmp_path / "test_some.py").write_text(TESTS, encoding="utf-8")
    result = run_pytest(tmp_path, "", *workers)
    assert result.returncode == 0, result.stdout
    assert "failures in CI" not in result.stdout


def test_no_skip_passes_in_ci(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("def test_runs(): pass\n", encoding="utf-8")
    assert run_pytest(tmp_path, "true").returncode == 0
