"""`examples/chat.py` as anybody runs it: lines go in, answers come as they are said, and it goes on where it was."""

import os
import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[2] / "examples" / "chat.py"


def chat(lines: str, *arguments: str) -> str:
    env = {name: value for name, value in os.environ.items() if name != "ANTHROPIC_API_KEY"}
    ran = subprocess.run(
        [sys.executable, str(EXAMPLE), *arguments], input=lines, capture_output=True, text=True, timeout=60, env=env
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_a_conversation_is_shown_as_it_is_said_and_kept(tmp_path: Path) -> None:
    store = str(tmp_path / "chat.db")
    said = chat("What is durable execution?\nAnd what is a log?\nexit\nnever read\n", store)
    assert said.count("--- Message complete ---") == 2 and "Error" not in said
    again = chat("", store)
    assert again == "My Chat: 4 messages so far\n"


def test_without_a_file_nothing_is_left(tmp_path: Path) -> None:
    assert chat("Hello\n").count("--- Message complete ---") == 1
