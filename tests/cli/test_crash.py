"""`perdure demo --crash`: it shows a real crash, and fails if its proof does not hold."""

import io
import re
from pathlib import Path

import pytest

from perdure.cli.crash import Call, Proof, key_of, tell
from perdure.cli.paint import Painter
from tests.cli.running import run

INFER, TOOL, NEXT = "agent/0/infer/0", "agent/0/infer/0/tool/0", "agent/1/infer/0"
HELD = Proof(
    [
        Call(1, "model", key_of(INFER), "Librarian"),
        Call(1, "tool", key_of(TOOL), "search_files"),
        Call(1, "model", key_of(NEXT), "Answerer"),
        Call(2, "model", key_of(NEXT), "Answerer"),
    ],
    ["route/0", INFER, TOOL],
    ["route/0", INFER, TOOL, NEXT],
)


def test_the_demo_survives_a_kill(tmp_path: Path):
    (tmp_path / "boat.md").write_text("# The boat\n\nThe boat is due on Friday.\n")
    shown = [run("demo", "--crash", str(tmp_path), "When is the boat due?") for _ in range(2)]
    for one in shown:
        assert one.returncode == 0, one.stderr
        assert "killed with SIGKILL while the model answers" in one.stdout
        assert "The boat is due on Friday. (boat.md:3)" in one.stdout
        assert re.search(r"model calls +2 +1 +2\b", one.stdout)
        assert re.search(r"tool calls +1 +0 +1\b", one.stdout)
        assert "No step that had finished ran again: 5 were answered from the log." in one.stdout
    same = [re.sub(r"process \d+|/\S*perdure-crash-\w+", "", one.stdout) for one in shown]
    assert same[0] == same[1], "it shows the same every time"


def test_a_path_that_is_not_there_is_said():
    shown = run("demo", "--crash", "/no/where")
    assert shown.returncode == 1
    assert "There is no file or folder" in shown.stderr


def test_a_proof_holds():
    assert told(HELD)[0] == 0


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (HELD._replace(calls=[*HELD.calls, Call(2, "tool", key_of(TOOL), "search_files")]), f"{TOOL} ran again"),
        (HELD._replace(calls=[*HELD.calls, Call(2, "model", key_of(INFER), "Librarian")]), f"{INFER} ran again"),
        (HELD._replace(closed=[*HELD.closed, INFER]), f"{INFER} ran again"),
        (HELD._replace(calls=HELD.calls[1:]), f"{INFER} is in the log, and nobody called it"),
        (HELD._replace(finished=[]), "The proof has failed"),
        (HELD._replace(calls=HELD.calls[:3]), "The proof has failed"),
    ],
)
def test_a_proof_that_does_not_hold_fails_the_demo(broken: Proof, why: str):
    code, shown = told(broken)
    assert code == 1
    assert why in shown
    assert "The proof has failed." in shown


def told(proof: Proof) -> tuple[int, str]:
    file = io.StringIO()
    return tell(Painter(file), proof), file.getvalue()
