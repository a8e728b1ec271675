"""`examples/history.py` as anybody runs it: a conversation in tables of an application, and the next run goes on."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "history.py"


def told(*arguments: str) -> list[str]:
    env = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], capture_output=True, text=True, timeout=60, env=env
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


def test_a_conversation_is_kept_and_goes_on(tmp_path: Path) -> None:
    store = str(tmp_path / "threads.db")
    first, *messages = told(store)
    assert first == "[('user-123', 'Tell me about quantum computing')]"
    assert [one.partition(":")[0] for one in messages] == ["user", "researcher", "writer"] * 2
    again = told(store)
    assert again[0] == first and again[1:7] == messages and len(again) == 13
