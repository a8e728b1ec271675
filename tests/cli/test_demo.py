"""The real command on real files: `perdure demo`, piped and in a terminal."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.running import COMMAND, chat_server, environment, run, search, terminal, text

ROOT = Path(__file__).parents[2]
BOATS = """# Boats

A sloop has one mast. A ketch has two
masts, the mizzen before the rudder.

## Mooring

Tie the bow line first, then the stern line.
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "boats.md").write_text(BOATS, encoding="utf-8")
    (tmp_path / "notes" / "food.txt").write_text("Bread is in the galley.\n", encoding="utf-8")
    return tmp_path / "notes"


def quoted(output: str) -> list[tuple[str, str, int]]:
    """The sentences of an answer with the places they claim to be from."""
    found = re.findall(r"^(?:- )?(.+) \(([^()]+):(\d+)\)$", output, re.MULTILINE)
    return [(sentence, path, int(line)) for sentence, path, line in found]


def is_at(root: Path, sentence: str, path: str, line: int) -> bool:
    """Whether a sentence begins at this line of the file, wrapped or as a table row as it may be."""

    def bare(written: str) -> str:
        return re.sub(r"[\W_]+", " ", written).strip()

    rest = (root / path).read_text(encoding="utf-8").split("\n")[line - 1 : line + 10]
    first = bare(sentence).split()[:3]
    return bare(sentence) in bare(" ".join(rest)) and " ".join(first[:1]) in bare(rest[0])


class TestOffline:
    def test_it_answers_about_its_own_documents_with_citations_of_real_lines(self) -> None:
        result = run("demo")
        assert (result.returncode, result.stderr) == (0, "")
        answer = quoted(result.stdout)
        assert answer
        for sentence, path, line in answer:
            assert is_at(ROOT, sentence, path, line), (sentence, path, line)
        assert result.stdout.count("No language model") == 1
        assert "search_files(query=" in result.stdout
        last = result.stdout.splitlines()[-1]
        assert re.fullmatch(
            r"2 agents \(Librarian, Answerer\) · 2 model calls · 1 tool call · [\d,]+ tokens · \d+\.\d\d s", last
        )

    def test_it_answers_about_a_folder(self, folder: Path) -> None:
        result = run("demo", str(folder), "How many masts has a ketch?")
        assert result.returncode == 0
        assert "A ketch has two masts, the mizzen before the rudder. (boats.md:3)" in result.stdout
        assert "Reading 2 files of notes" in result.stdout

    def test_it_answers_about_one_file(self, folder: Path) -> None:
        result = run("demo", "boats.md", "Which line first?", cwd=folder)
        assert "Tie the bow line first, then the stern line. (boats.md:8)" in result.stdout

    def test_a_question_alone_is_about_the_documents(self) -> None:
        result = run("demo", "What is a router?")
        assert result.returncode == 0
        assert "? What is a router?" in result.stdout

    def test_it_says_when_nothing_matches(self, folder: Path) -> None:
        result = run("demo", str(folder), "Who is the king of Norway?")
        assert result.returncode == 0
        assert "nothing found" in result.stdout
        assert "I have no answer to “Who is the king of Norway?”" in result.stdout

    def test_the_same_question_gets_the_same_answer(self, folder: Path) -> None:
        shown = [run("demo", str(folder), "Which boat has two masts?", PYTHONHASHSEED=seed).stdout for seed in "12"]
        assert shown[0].rsplit("·", 1)[0] == shown[1].rsplit("·", 1)[0]

    def test_json_is_one_object(self, folder: Path) -> None:
        result = run("demo", str(folder), "How many masts has a ketch?", "--json")
        report = json.loads(result.stdout)
        assert report["citations"] == [{"path": "boats.md", "line": 3}]
        assert (report["model"], report["agents"]) == ("offline:offline", ["Librarian", "Answerer"])
        assert (report["model_calls"], report["tool_calls"], report["stop_reason"]) == (2, 1, "router")
        assert report["tokens"] > 0
        assert "No language model" in result.stderr


class TestServer:
    def test_a_local_server_answers(self, folder: Path) -> None:
        with chat_server(search("ketch masts"), text("Two masts ", "(boats.md:3).")) as server:
            result = run("demo", str(folder), "How many masts has a ketch?", "--base-url", server.url)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"Model: small at {server.url}" in result.stdout
        assert "Two masts (boats.md:3)." in result.stdout
        assert "220 tokens" in result.stdout.splitlines()[-1]
        assert [request["model"] for request in server.requests] == ["small", "small"]
        assert server.requests[0]["tool_choice"] == "required"
        told = server.requests[1]["messages"][-1]
        assert (told["role"], json.loads(told["content"])["data"][0]["path"]) == ("tool", "boats.md")

    def test_a_wrong_key_is_two_readable_lines(self, folder: Path) -> None:
        with chat_server(401) as server:
            arguments = ("demo", str(folder), "Why?", "--base-url", server.url, "--model", "small")
            result = run(*arguments, OPENAI_API_KEY="sk-very-secret")
        assert result.returncode == 1
        assert re.fullmatch(r"perdure: .*401.*\n.*--model offline\n", result.stderr), result.stderr
        assert "sk-very-secret" not in result.stdout + result.stderr


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("demo", "no-such-folder"), 1, "There is no file or folder 'no-such-folder'"),
            (("chat", "no-such-folder"), 1, "There is no file or folder 'no-such-folder'"),
            (("demo", "empty"), 1, "There are no text files below 'empty'"),
            (("demo", "binary.md"), 1, "is a binary file"),
            (("demo", ".", "Why?", "--model", "nobody:x"), 1, "unknown provider 'nobody'"),
            (("demo", ".", "Why?", "--model", "openai:gpt-5-mini"), 1, "OPENAI_API_KEY"),
            (("demo", ".", "Why?", "--base-url", "http://127.0.0.1:9/v1"), 1, "Is the server running?"),
            (("demo", "."), 2, "There is no question."),
            (("demo", ".", " "), 2, "There is no question."),
            (("demo", "--nonsense"), 2, "unrecognized arguments: --nonsense"),
            (("dance",), 2, "invalid choice: 'dance'"),
        ],
    )
    def test_each_says_what_is_wrong_without_a_traceback(
        self, folder: Path, arguments: tuple[str, ...], code: int, message: str
    ) -> None:
        (folder / "empty").mkdir()
        (folder / "binary.md").write_bytes(b"\0\1\2")
        result = run(*arguments, cwd=folder)
        assert result.returncode == code
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        assert len(result.stderr.splitlines()) <= 4

    def test_a_missing_extra_names_the_command(self, folder: Path) -> None:
        hide = "import sys; sys.modules['openai'] = None; from perdure.cli.main import main; sys.exit(main())"
        command = [sys.executable, "-c", hide, "demo", ".", "Why?", "--model", "openai:gpt-5-mini"]
        env = environment(OPENAI_API_KEY="x")
        result = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert "pip install 'perdure[openai]'" in result.stderr
        assert "Traceback" not in result.stderr

    @pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
    def test_a_reader_that_goes_away_is_no_error(self, folder: Path, more: list[str]) -> None:
        with subprocess.Popen(
            [*COMMAND, "demo", str(folder), "masts", "--model", "offline", *more],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            process.stdout.close()
            assert process.stderr is not None
            assert b"Traceback" not in (said := process.stderr.read())
            assert b"BrokenPipe" not in said
        assert process.returncode == 1

    @pytest.mark.parametrize("more", [[], ["--json"]], ids=["text", "json"])
    def test_output_that_cannot_be_written_is_said_without_a_traceback(self, folder: Path, more: list[str]) -> None:
        command = [*COMMAND, "demo", str(folder), "masts", "--model", "offline", *more]
        with open("/dev/full", "wb") as full:
            result = subprocess.run(command, env=environment(), stdout=full, stderr=subprocess.PIPE, check=False)
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1] == b"perdure: No space left on device"
        assert b"Traceback" not in result.stderr


class TestFaces:
    def test_version_and_help(self) -> None:
        assert re.fullmatch(r"perdure \d+\.\d+\.\d+\S*\n", run("--version").stdout)
        shown = run("--help").stdout
        for part in ("demo", "chat", "--version", "OPENAI_API_KEY", "examples:"):
            assert part in shown
        assert run().stdout == shown
        assert all(len(line) <= 120 for line in shown.splitlines())

    def test_help_loads_no_agents(self) -> None:
        code = "import sys; from perdure.cli.main import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        code += "print([m for m in sys.modules if m in ('rich', 'pydantic', 'msgspec', 'asyncio')])"
        shown = subprocess.run(
            [sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True
        )
        assert shown.stdout.splitlines()[-1] == "[]"

    @pytest.mark.parametrize("locale", ["C", "POSIX"])
    def test_an_old_locale_gets_plain_characters(self, folder: Path, locale: str) -> None:
        (folder / "boats.md").write_text("A ketch — das Schiff für Ä — has two masts.\n", encoding="utf-8")
        more = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
        result = run("demo", str(folder), "How many masts has a ketch?", cwd=None, **more)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.isascii()
        assert "has two masts. (boats.md:1)" in result.stdout

    def test_a_question_in_another_encoding_is_read_as_far_as_it_goes(self, folder: Path) -> None:
        question = "How many masts has a ketch, \xe4?".encode("latin-1")
        command = [*COMMAND, "demo", str(folder), question]
        shown = subprocess.run(command, env=environment(), capture_output=True, check=False)
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert b"A ketch has two" in shown.stdout
        command = [*COMMAND, "chat", str(folder)]
        shown = subprocess.run(command, env=environment(), input=question, capture_output=True, check=False)
        assert (shown.returncode, shown.stderr) == (0, b"")
        assert b"A ketch has two" in shown.stdout

    def test_in_a_pipe_nothing_is_coloured(self, folder: Path) -> None:
        assert "\x1b" not in run("demo", str(folder), "masts", TERM="xterm-256color").stdout

    def test_in_a_terminal_it_is_coloured_and_wrapped(self, folder: Path) -> None:
        with terminal("demo", str(folder), "How many masts has a ketch?", columns=40) as screen:
            assert screen.end() == 0
            assert "\x1b[36m(boats.md:3)" in screen.raw
            assert all(len(line) <= 40 for line in screen.shown.splitlines())
            assert "A ketch has two masts, the mizzen before" in screen.shown

    def test_no_color_is_respected_in_a_terminal(self, folder: Path) -> None:
        with terminal("demo", str(folder), "How many masts has a ketch?", NO_COLOR="1") as screen:
            assert screen.end() == 0
            assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", screen.raw)

    def test_ctrl_c_stops_it(self, folder: Path) -> None:
        answers = [search("ketch"), [*text("Two masts "), {"hang": True}]]
        with (
            chat_server(*answers) as server,
            terminal("demo", str(folder), "Why?", "--base-url", server.url) as screen,
        ):
            screen.wait_for("Two masts")
            screen.type("\x03")
            assert screen.end() == 130
            assert "Stopped." in screen.shown
            assert "Traceback" not in screen.shown


class TestInstalled:
    """The package elsewhere than in its checkout, as an installed wheel has it."""

    @pytest.fixture
    def site(self, tmp_path: Path) -> Path:
        shutil.copytree(ROOT / "src" / "perdure", tmp_path / "site" / "perdure")
        return tmp_path / "site"

    def test_it_asks_the_documents_that_came_with_it(self, site: Path, tmp_path: Path) -> None:
        shutil.copytree(ROOT / "docs", site / "perdure" / "_docs" / "docs")
        result = run("demo", cwd=tmp_path, PYTHONPATH=str(site))
        assert (result.returncode, result.stderr) == (0, "")
        assert quoted(result.stdout)
        for sentence, path, line in quoted(result.stdout):
            assert is_at(site / "perdure" / "_docs", sentence, path, line)

    def test_without_documents_it_asks_its_own_source(self, site: Path, tmp_path: Path) -> None:
        result = run("demo", cwd=tmp_path, PYTHONPATH=str(site))
        assert (result.returncode, result.stderr) == (0, "")
        assert "files of Perdure's own source" in result.stdout
        assert quoted(result.stdout)

    def test_the_wheel_is_told_to_bring_them(self) -> None:
        config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
        brought = config["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
        assert brought == {"README.md": "perdure/_docs/README.md", "docs": "perdure/_docs/docs"}
