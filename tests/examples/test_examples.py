"""The examples as anybody runs them: what they print, and that a kill in their middle changes nothing of the end."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DYING = Path(__file__).parent / "dying.py"
KEYS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")


def ran(name: str, *arguments: str, lines: str = "", dies: str = "") -> str:
    """Run an example to its end, or to where it dies; what it has printed."""
    env = {one: value for one, value in os.environ.items() if one not in KEYS}
    env["PYTHONPATH"] = str(ROOT / "src")
    command = [str(DYING), dies] if dies else []
    done = subprocess.run(
        [sys.executable, "-u", *command, str(ROOT / "examples" / name), *arguments],
        input=lines,
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGKILL if dies else 0, ""), done.stdout
    return done.stdout


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute(sql).fetchall()


ASKED = """\
The run is waiting; paid so far: nothing
Clerk wants to pay {'amount': 4200, 'to': 'Nordlys Power', 'account': '1234.56.78903'}: 4200 NOK is above 100
"""
PAID = "4200 NOK to Nordlys Power from 1234.56.78903"


@pytest.mark.parametrize(
    ("answer", "end"),
    [
        ("approve", f"The run is completed: The bill is paid.\nPaid: {PAID}\n"),
        ("deny", "The run is completed: The bill is not paid.\nPaid: nothing\n"),
    ],
)
def test_a_payment_waits_for_a_person(answer: str, end: str) -> None:
    assert ran("approval.py", answer) == ASKED + end


def test_a_nightly_function() -> None:
    assert ran("nightly.py") == "report 1: 3 days, 400 sold\n"


def test_a_wait_of_three_weeks_outlives_the_process_that_began_it() -> None:
    assert ran("three_weeks.py", "0.6").splitlines() == [
        "ordered for Ada",
        "the first process leaves, the run is waiting",
        "reminded Ada",
        "Ada was reminded",
    ]


def test_a_chat_is_shown_as_it_is_said_and_kept(tmp_path: Path) -> None:
    store = str(tmp_path / "chat.db")
    said = ran("chat.py", store, lines="What is durable execution?\nAnd what is a log?\nexit\nnever read\n")
    assert said.count("--- Message complete ---") == 2 and "Error" not in said
    assert ran("chat.py", store) == "My Chat: 4 messages so far\n"
    assert ran("chat.py", lines="Hello\n").count("--- Message complete ---") == 1, "without a file, too"


def test_a_history_in_tables_of_ones_own_goes_on(tmp_path: Path) -> None:
    store = str(tmp_path / "threads.db")
    first, *messages = ran("history.py", store).splitlines()
    assert first == "[('user-123', 'Tell me about quantum computing')]"
    assert [one.partition(":")[0] for one in messages] == ["user", "researcher", "writer"] * 2
    again = ran("history.py", store).splitlines()
    assert again[0] == first and again[1:7] == messages and len(again) == 13


# -- killed in the middle, twice: in the work, and in its recovery -----------------------------------------------------


def paid_once(folder: Path, said: list[str]) -> None:
    assert [what for (what,) in rows(folder / "a" / "bank.db", "SELECT what FROM payment")] == [PAID]
    assert (
        said[2] == f"The run is completed; paid so far: {PAID}\nThe run is completed: The bill is paid.\nPaid: {PAID}\n"
    )


def reported_once(folder: Path, said: list[str]) -> None:
    assert rows(folder / "a", "SELECT due, total FROM report") == [(0.0, 400)]
    assert said == ["", "", "report 1: 3 days, 400 sold\n"]


def reminded_once(folder: Path, said: list[str]) -> None:
    assert sorted(one.name for one in (folder / "a").glob("*.txt")) == ["order.txt", "reminder.txt"]
    # the first process dies between the letter and its record, so it may be sent again; the reminder has its record
    assert "".join(said).count("ordered") == 2 and "".join(said).count("reminded Ada") == 1
    assert said[2].endswith("Ada was reminded\n")


def answered_once(folder: Path, said: list[str]) -> None:
    assert said[2] == "My Chat: 4 messages so far\n"
    assert rows(folder / "a", "SELECT status, COUNT(*) FROM runs GROUP BY status") == [("completed", 2)]
    assert said[1].startswith("My Chat: "), "it goes on with the image that was there"


def kept_once(folder: Path, said: list[str]) -> None:
    ((runs, open),) = rows(folder / "a-runs", "SELECT COUNT(*), SUM(status <> 'completed') FROM runs")
    assert runs >= 3 and not open
    kept = rows(folder / "a", "SELECT role, agent, thread_id FROM message ORDER BY rowid")
    ((thread,),) = rows(folder / "a", "SELECT id FROM thread")
    assert kept == [("user", None, thread), ("assistant", "researcher", thread), ("assistant", "writer", thread)] * runs


KILLED: list[tuple[str, list[str], list[str], Callable[[Path, list[str]], None]]] = [
    ("approval.py", ["agent/0/infer/0/tool/0:before:1", "agent/0/infer/0/tool/0:after:1"], [], paid_once),
    ("nightly.py", ["transaction:before:1", "transaction:after:1"], [], reported_once),
    ("three_weeks.py", ["function/order:before:1", "function/remind:after:1"], [], reminded_once),
    ("chat.py", ["agent/0/infer/0:before:1", "agent/0/infer/0:after:2"], ["What is it?", "And a log?"], answered_once),
    ("history.py", ["history/save/0:before:1", "agent/1/infer/0:before:1"], [], kept_once),
]


@pytest.mark.parametrize(("name", "kills", "lines", "right"), KILLED, ids=[one[0] for one in KILLED])
def test_killed_in_its_middle_and_in_its_recovery_an_example_ends_right_with_nothing_done_twice(
    name: str, kills: list[str], lines: list[str], right: Callable[[Path, list[str]], None], tmp_path: Path
) -> None:
    before = {"approval.py": ["approve"], "three_weeks.py": ["0.2"]}.get(name, [])
    typed = [*(f"{one}\n" for one in lines), "", "", ""]
    said = [ran(name, *before, str(tmp_path / "a"), lines=typed[n], dies=dies) for n, dies in enumerate((*kills, ""))]
    right(tmp_path, said)
