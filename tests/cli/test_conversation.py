"""Conversations in a store: they go on in the next process, after a kill too, and without what was stopped."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.running import COMMAND, PATIENCE, chat_server, environment, run, search, terminal, text

HERE: dict[str, Any] = {"PYTHONPATH": os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", ""))}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    text = "A sloop has one mast. A ketch has two masts.\n\nBread is in the galley.\n"
    (tmp_path / "notes" / "boats.md").write_text(text, encoding="utf-8")
    return tmp_path / "notes"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that is not there yet."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"sqlite:///{tmp_path}/chat.db"


def said(request: dict[str, Any]) -> list[str]:
    """What the user has said, as a model sees it."""
    return [one["content"] for one in request["messages"] if one["role"] == "user"]


def test_a_conversation_goes_on_in_another_process(folder: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    answers = [search("masts"), text("Two."), search("bread"), text("In the galley.")]
    with chat_server(*answers) as server:
        asked = ("chat", str(folder), "--base-url", server.url, "--session", "trip", "--store", url)
        first = run(*asked, stdin="Masts?\n", **HERE)
        second = run(*asked[:-2], stdin="Bread?\n", PERDURE_URL=url, **HERE)
    assert (first.returncode, first.stderr, second.returncode, second.stderr) == (0, "", 0, "")
    assert f"To go on: perdure chat {folder} --session trip --store " in first.stdout
    shown = second.stdout
    assert '> Masts?\n  → search_files(query="masts")' in shown
    assert shown.index("Two.") < shown.index("> Bread?") < shown.index("In the galley.")
    assert [said(one) for one in server.requests[::2]] == [["Masts?"], ["Masts?", "Bread?"]]
    listed = run("sessions", "list", "--store", url, **HERE).stdout
    assert listed.splitlines()[1].split()[:3] == ["trip", "2", "0"]


def test_an_answer_that_was_killed_goes_on_and_nothing_finished_is_paid_again(folder: Path, url: str) -> None:
    asked = ["chat", str(folder), "--session", "trip", "--store", url, "--model", "small"]
    with chat_server(search("masts"), [*text("Two "), {"hang": True}]) as server:
        process = subprocess.Popen(
            [*COMMAND, *asked, "--base-url", server.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env=environment(**HERE),
        )
        typed = process.stdin
        assert typed is not None
        try:
            typed.write(b"Masts?\n")
            typed.flush()
            end = time.monotonic() + PATIENCE
            while len(server.requests) < 2:
                assert time.monotonic() < end
                time.sleep(0.02)
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            typed.close()
    with chat_server(text("Two masts."), search("bread"), text("In the galley.")) as server:
        again = run(*asked, "--base-url", server.url, stdin="Bread?\n", **HERE)
    assert (again.returncode, again.stderr) == (0, "")
    shown = again.stdout
    assert (
        shown.index("> Masts?")
        < shown.index("the answer goes on")
        < shown.index("Two masts.")
        < shown.index("> Bread?")
    )
    assert len(server.requests) == 3, "the search was finished before"
    assert said(server.requests[1]) == ["Masts?", "Bread?"]


def test_what_was_stopped_does_not_count_in_the_next_process(folder: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/chat.db"
    asked = ["chat", str(folder), "--session", "trip", "--store", store]
    answers = [search("ketch"), [*text("Two masts "), {"hang": True}]]
    with chat_server(*answers) as server, terminal(*asked, "--base-url", server.url, **HERE) as screen:
        screen.wait_for("> ")
        screen.type("Masts?\r")
        screen.wait_for("Two masts")
        screen.type("\x03")
        screen.wait_for("Stopped. Nothing of this question is remembered.")
        screen.type("/quit\r")
        assert screen.end() == 0
        assert "Traceback" not in screen.shown
    with chat_server(search("bread"), text("In the galley.")) as server:
        again = run(*asked, "--base-url", server.url, stdin="Bread?\n", **HERE)
    assert again.returncode == 0
    assert "Masts?" not in again.stdout
    assert said(server.requests[0]) == ["Bread?"]
    shown = run("runs", "list", "--store", store, **HERE).stdout
    assert "cancelled" in shown, "it is kept, and does not count"


def test_a_demo_can_be_kept_and_gone_on_with(folder: Path, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/chat.db"
    first = run("demo", str(folder), "How many masts has a ketch?", "--store", store, "--session", "trip", **HERE)
    assert first.returncode == 0
    assert first.stdout.splitlines()[-1].startswith("To go on: perdure chat ")
    second = run("chat", str(folder), "--store", store, "--session", "trip", stdin="", **HERE)
    assert "> How many masts has a ketch?" in second.stdout
    assert "A ketch has two masts. (boats.md:1)" in second.stdout
    assert "To go on" not in second.stdout, "nothing was asked"


@pytest.mark.parametrize("command", ["chat", "demo"])
def test_a_session_without_a_store_is_wrong_usage(command: str, folder: Path) -> None:
    result = run(command, str(folder), "--session", "trip", PERDURE_URL="", **HERE)
    assert result.returncode == 2
    assert "Give --store" in result.stderr


def test_a_session_with_a_wrong_id_or_a_store_that_cannot_be_opened_is_said(folder: Path, tmp_path: Path) -> None:
    wrong = run("chat", str(folder), "--session", "../x", "--store", f"sqlite:///{tmp_path}/chat.db", **HERE)
    assert (wrong.returncode, "Traceback" in wrong.stderr) == (1, False)
    gone = run("chat", str(folder), "--store", f"sqlite:///{tmp_path}/no/chat.db", **HERE)
    assert gone.returncode == 1
    assert "there is no folder" in gone.stderr
