"""`perdure chat`: a conversation, piped and in a terminal."""

from pathlib import Path

import pytest

from tests.cli.running import chat_server, run, search, terminal, text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    text = "A sloop has one mast. A ketch has two masts.\n\nBread is in the galley.\n"
    (tmp_path / "boats.md").write_text(text, encoding="utf-8")
    return tmp_path


def test_a_piped_conversation_answers_each_line(folder: Path) -> None:
    result = run("chat", str(folder), stdin="How many masts has a ketch?\n\nWhere is the bread?\n")
    assert (result.returncode, result.stderr) == (0, "")
    shown = result.stdout
    assert "> How many masts has a ketch?" in shown
    assert "A ketch has two masts. (boats.md:1)" in shown
    assert "Bread is in the galley. (boats.md:3)" in shown
    assert shown.count("2 agents (Librarian, Answerer) · 2 model calls · 1 tool call") == 2
    assert shown.count("No language model") == 1


def test_earlier_turns_are_remembered_and_can_be_forgotten(folder: Path) -> None:
    turns = ("one", "two", "three")
    answers = [one for turn in turns for one in (search(turn), text(f"Answer {turn}."))]
    with chat_server(*answers) as server:
        stdin = "First?\nSecond?\n/new\nThird?\n"
        result = run("chat", str(folder), "--base-url", server.url, stdin=stdin)
    assert result.returncode == 0
    said = [
        [one["content"] for one in request["messages"] if one["role"] == "user"] for request in server.requests[::2]
    ]
    assert said == [["First?"], ["First?", "Second?"], ["Third?"]]
    roles = [one["role"] for one in server.requests[2]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


def test_commands(folder: Path) -> None:
    shown = run("chat", str(folder), stdin="/help\n/files\n/dance\n/quit\nnever asked\n").stdout
    assert "/new     forget the conversation" in shown
    assert "\nboats.md\n" in shown
    assert "There is no command /dance." in shown
    assert "never asked" not in shown


def test_an_error_does_not_end_the_conversation(folder: Path) -> None:
    with chat_server(401, search("x"), text("Here I am.")) as server:
        result = run("chat", str(folder), "--base-url", server.url, "--model", "small", stdin="One?\nTwo?\n")
    assert "401" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Here I am." in result.stdout
    assert result.returncode == 0


def test_a_piped_conversation_that_ends_in_an_error_says_so(folder: Path) -> None:
    with chat_server(401) as server:
        assert run("chat", str(folder), "--base-url", server.url, "--model", "small", stdin="One?\n").returncode == 1


class TestTerminal:
    def test_ctrl_d_leaves(self, folder: Path) -> None:
        with terminal("chat", str(folder)) as screen:
            screen.wait_for("> ")
            screen.type("How many masts has a ketch?\r")
            screen.wait_for("(boats.md:1)")
            screen.wait_for(" s\n\n> ")
            screen.type("\x04")
            assert screen.end() == 0

    def test_ctrl_c_stops_the_answer_and_not_the_conversation(self, folder: Path) -> None:
        answers = [search("ketch"), [*text("Two masts "), {"hang": True}], search("bread"), text("In the galley.")]
        with chat_server(*answers) as server, terminal("chat", str(folder), "--base-url", server.url) as screen:
            screen.wait_for("> ")
            screen.type("Masts?\r")
            screen.wait_for("Two masts")
            screen.type("\x03")
            screen.wait_for("Stopped. Nothing of this question is remembered.")
            screen.type("Bread?\r")
            screen.wait_for("In the galley.")
            screen.wait_for(" s\n\n> ")
            screen.type("/quit\r")
            assert screen.end() == 0
            assert "Traceback" not in screen.shown
        asked = [one["content"] for one in server.requests[2]["messages"] if one["role"] == "user"]
        assert asked == ["Bread?"]

    def test_ctrl_c_at_the_prompt_does_not_leave(self, folder: Path) -> None:
        with terminal("chat", str(folder)) as screen:
            screen.wait_for("> ")
            screen.type("half a quest")
            screen.wait_for("half a quest")
            screen.interrupt(until="Ctrl-D or /quit leaves.")
            screen.type("/quit\r")
            assert screen.end() == 0
