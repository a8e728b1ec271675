"""The commands that look after a store, on SQLite and PostgreSQL: what they show, what they say, how they end."""

import asyncio
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import Runtime, TextMessage
from perdure.cli.main import main
from perdure.db.database import Script, Sql
from perdure.log.log import Entry, NewRun
from perdure.types import records as rec
from tests.cli.desk_app import biller, slow
from tests.cli.running import COMMAND, environment
from tests.cli.running import run as perdure_in_a_pipe
from tests.runtime import desk
from tests.runtime.conftest import Processes
from tests.runtime.desk import QUICK, nothing_open, until

ROOT = Path(__file__).parents[2]
ASKED = (TextMessage("user", "Why twice?"),)


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store with three runs in two sessions, named by the environment."""
    where = request.getfixturevalue("postgres_url") if request.param == "postgres" else f"sqlite:///{tmp_path}/desk.db"

    async def fill() -> None:
        async with Runtime(where, [biller], timing=QUICK, durability="normal") as rt:
            for n in range(2):
                await rt.run(biller, f"Why twice? ({n})", session_id="t-42", run_id=f"job-{n}", user_id="ada")
            await rt.run(biller, "Hello", session_id="t-43", run_id="job-2")

    asyncio.run(fill())
    monkeypatch.setenv("PERDURE_URL", where)
    monkeypatch.chdir(tmp_path)
    return where


@pytest.fixture
def perdure(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command here: its exit code, what it wrote, and its errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(arguments)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def with_store(url: str, work: Any, *, workers: bool = False, **options: Any) -> Any:
    async def opened() -> Any:
        async with Runtime(url, timing=QUICK, workers=workers, **options) as rt:
            return await work(rt)

    return asyncio.run(opened())


def parked(url: str) -> None:
    """Leave a run behind that is parked."""

    async def work(rt: Runtime) -> None:
        log = rt.container("default").log
        accepted = await log.accept(NewRun("stuck", "t-9", "Billing"), rec.RunStarted("Billing", "agent", ASKED))
        assert accepted.token is not None
        await log.append(accepted.token, [Entry(None, rec.Claimed(2, parked="it was alone"))], "parked")

    with_store(url, work)


def test_runs_are_listed_in_pages(url: str, perdure: Any):
    code, out, _ = perdure("runs", "list", "--limit", "2")
    assert code == 0
    lines = out.splitlines()
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["job-2", "completed", "Billing"],
        ["job-1", "completed", "Billing"],
    ]
    assert lines[3] == "The next ones: --after job-1"
    assert perdure("runs", "list", "--limit", "2", "--after", "job-1")[1].splitlines()[1].startswith("job-0")
    found = json.loads(perdure("runs", "list", "--session", "t-42", "--limit", "1", "--json")[1])
    assert ([one["id"] for one in found["runs"]], found["next"]) == (["job-1"], "job-1")
    assert perdure("runs", "list", "--status", "failed")[:2] == (0, "There are no such runs.\n")


def test_a_run_is_shown_as_a_timeline(url: str, perdure: Any):
    code, out, _ = perdure("runs", "show", "job-1")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "job-1  Billing  completed: answer"
    assert "session t-42" in lines[1]
    assert "2 model calls · 1 tool call ·" in lines[1]
    for wanted in (
        "Billing was asked: Why twice? (1)",
        "#0 Billing: calls look",
        "  tool/0",
        'look() → "two charges of 20"',
        "#1 Billing: You were",
    ):
        assert sum(wanted in line for line in lines) == 1, wanted
    found = json.loads(perdure("runs", "show", "job-1", "--json")[1])
    assert [one["kind"] for one in found["timeline"]] == [
        *("run_started", "inference", "tool", "inference", "agent_finished", "run_finished")
    ]
    assert found["timeline"][2]["place"] == "agent/0/infer/0/tool/0"
    assert perdure("runs", "show", "job-1", "--limit", "2")[1].splitlines()[3] == "(4 lines before these: --limit 6)"

    async def damage(rt: Runtime) -> None:
        def script() -> Script[None]:
            yield Sql("UPDATE records SET payload = ? WHERE run = 'job-2' AND kind = 'run_finished'", (b"{}",))

        await rt.db.write(script)

    with_store(url, damage)
    code, out, _ = perdure("runs", "show", "job-2")
    assert code == 1
    assert "'Billing' is completed: The record 6 (run_finished, version 1)" in " ".join(out.split())
    assert "cannot be read" in json.loads(perdure("runs", "show", "job-2", "--json")[1])["error"]


def test_what_a_model_saw_is_shown(url: str, perdure: Any):
    code, out, _ = perdure("runs", "show", "job-1", "--prompt", "1")
    assert code == 0
    assert "every text has the hash that was recorded" in out
    assert out.index("You answer billing questions.") < out.index("Why twice? (0)") < out.index("Why twice? (1)")
    found = json.loads(perdure("runs", "show", "job-1", "--prompt", "agent/0/infer/0", "--json")[1])
    assert (found["system"], found.get("doubts", [])) == ("You answer billing questions.", [])
    assert "0: agent/0/infer/0, 1: agent/0/infer/1" in perdure("runs", "show", "job-1", "--prompt", "7")[2].replace(
        "'", ""
    )


def test_a_wrong_id_is_answered_with_those_like_it(url: str, perdure: Any):
    for verb in ("show", "cancel", "resume"):
        code, _, err = perdure("runs", verb, "job-9")
        assert code == 1
        assert "There is no run 'job-9' in container 'default'. Like it: job-" in err
    for verb in ("show", "export", "erase"):
        code, _, err = perdure("sessions", verb, "t-44")
        assert code == 1
        assert "There is no session 't-44'" in err
        assert "t-43" in err
    assert perdure("runs", "list", "--after", "job-9")[0] == 1


def test_a_parked_run_is_shown_resumed_and_cancelled(url: str, perdure: Any):
    parked(url)
    assert "parked: it was alone. See what it does, then resume it." in perdure("runs", "show", "stuck")[1]
    code, out, _ = perdure("doctor")
    assert code == 0
    assert "default: 1 parked" in out
    code, out, _ = perdure("runs", "resume", "stuck")
    assert (code, out) == (0, "stuck is queued: a process that has 'Billing' takes it, such as perdure worker.\n")
    code, _, err = perdure("runs", "resume", "stuck")
    assert code == 1
    assert "is queued already" in err
    assert perdure("runs", "cancel", "stuck")[0] == 0
    assert perdure("runs", "cancel", "job-0")[:2] == (0, "job-0 is over already: completed.\n")


def test_sessions_are_listed_shown_and_erased(url: str, perdure: Any):
    code, out, _ = perdure("sessions", "list")
    assert code == 0
    assert [line.split()[:4] for line in out.splitlines()[1:]] == [["t-43", "1", "0", "6"], ["t-42", "2", "0", "12"]]
    assert json.loads(perdure("sessions", "list", "--limit", "1", "--json")[1])["next"] == "t-43"
    assert perdure("sessions", "list", "--after", "t-43")[1].splitlines()[1].startswith("t-42")
    out = perdure("sessions", "show", "t-42", "--limit", "2")[1]
    assert out.startswith("(6 messages before these: --limit 8)\ntool_result\n")
    assert out.endswith("assistant\n  You were charged twice.\n")
    code, out, _ = perdure("sessions", "erase", "t-42")
    assert code == 0
    assert out.startswith("t-42 erased: 12 records keep their place and time only.")
    assert ("vacuumed" in out) == url.startswith("postgres")
    assert perdure("sessions", "show", "t-42")[1] == "Nothing was said in a turn that has ended.\n"
    assert "(inference, erased)" in perdure("runs", "show", "job-0")[1]
    assert "(erased)" in perdure("runs", "show", "job-0", "--prompt", "0")[2]


def test_a_user_is_erased(url: str, perdure: Any):
    code, out, _ = perdure("sessions", "erase", "--user", "ada")
    assert (code, out.splitlines()[0]) == (0, "1 session of ada erased: 12 records keep their place and time only.")
    assert perdure("sessions", "erase", "--user", "ada")[1].startswith("0 sessions of ada erased")
    assert "Hello" in perdure("sessions", "show", "t-43")[1]
    for wrong in ((), ("t-43", "--user", "ada")):
        code, _, err = perdure("sessions", "erase", *wrong)
        assert (code, err) == (2, "perdure: Give a session, or --user ID.\n")

    code, out, _ = perdure("sessions", "erase", "t-43", "--json")
    receipt = json.loads(out)
    assert (code, receipt["sessions"], receipt["runs"], receipt["complete"]) == (0, ["t-43"], 1, url[0] == "s")


def test_containers_are_listed_shown_limited_and_let_go(url: str, perdure: Any):
    code, out, _ = perdure("containers", "set", "acme", "--retention", "30d", "--sessions", "10", "--bytes", "1.5GB")
    assert (code, out.splitlines()) == (
        0,
        [
            "acme, which is new, may hold at most 10 sessions, 1.5 GB.",
            "What was said in it is kept: 30 d after the last record. Every process follows within seconds.",
        ],
    )
    with_store(url, lambda rt: rt.container("acme").session.start(session_id="s"))
    assert perdure("containers", "set", "acme", "--open-runs", "3", "--sessions", "none")[0] == 0
    listed = json.loads(perdure("containers", "list", "--json")[1])["containers"]
    limits = {"open_runs": 3, "bytes": 1_500_000_000}
    assert [(one["container"], one["retention"], one["quota"]) for one in listed] == [
        ("acme", 30 * 86400.0, limits),
        ("default", None, None),
    ]
    out = perdure("containers", "list")[1]
    assert "open runs ≤" in out and "1.5 GB" in out and "for ever" in out
    shown = json.loads(perdure("containers", "show", "acme", "--json")[1])
    assert (shown["usage"]["sessions"], shown["usage"]["records"]) == (1, 1)
    assert "at most" in perdure("containers", "show", "acme")[1]
    out = perdure("containers", "set", "acme", "--open-runs", "none", "--bytes", "none", "--retention", "none")[1]
    assert out.splitlines()[0] == "acme may hold as much as comes."
    assert json.loads(perdure("containers", "show", "acme", "--json")[1])["quota"] is None


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (("--retention", "30"), "'30' is no time: give a number with s, m, h, d or w, such as 30d, or none"),
        (("--retention", "0d"), "is no time"),
        (("--sessions", "-1"), "no limit|expected one argument"),
        (("--records", "many"), "'many' is no limit: give a whole number from 0, or none"),
        (("--bytes", "5 apples"), "'5 apples' is no size: give bytes, or a number with kB, MB, GB or TB, or none"),
        ((), "Nothing is to be set: give --retention"),
    ],
)
def test_a_limit_that_makes_no_sense_is_wrong_usage(given: tuple[str, ...], why: str, tmp_path: Path):
    store = f"sqlite:///{tmp_path}/desk.db"
    with_store(store, lambda rt: rt.sweep())
    done = perdure_in_a_pipe("containers", "set", "acme", *given, "--store", store)
    assert done.returncode == 2 and re.search(why, done.stderr) and "Traceback" not in done.stderr


def test_what_was_said_is_searched(url: str, perdure: Any):
    code, out, _ = perdure("sessions", "search", "why twice")
    assert code == 0
    place, said, *_ = out.splitlines()
    assert place.startswith("t-42 #")
    assert "Why twice? (" in said
    assert len(out.splitlines()) == 4
    [hit] = json.loads(perdure("sessions", "search", "HELLO", "--json")[1])["hits"]
    assert (hit["session_id"], hit["role"], hit["snippet"], hit["marks"]) == ("t-43", "user", "Hello", [[0, 5]])
    assert perdure("sessions", "search", "hello", "--user", "ada")[:2] == (0, "Nothing was found.\n")
    assert perdure("sessions", "search", 'hello "AND (', "--session", "t-43")[0] == 0
    assert "There is no session 't-44'" in perdure("sessions", "search", "hello", "--session", "t-44")[2]


def test_sessions_and_runs_are_forked_and_rewound(url: str, perdure: Any):
    code, out, _ = perdure("sessions", "fork", "t-42", "--at", "6", "--title", "What if?")
    assert code == 0
    fork = out.split()[0]
    assert out == f"{fork} goes on from record 6 of t-42; nothing has changed there.\n"
    listed = perdure("sessions", "list")[1].splitlines()[1]
    assert listed.split()[:4] == [fork, "0", "0", "7"] and listed.endswith("What if?  fork of t-42 #6")
    assert len(json.loads(perdure("sessions", "show", fork, "--json")[1])["messages"]) == 4
    code, out, _ = perdure("sessions", "rewind", "t-42", "--to", "6")
    assert code == 0
    assert out.splitlines()[-1] == "To take it back: perdure sessions rewind t-42 --to 12"
    assert len(json.loads(perdure("sessions", "show", "t-42", "--json")[1])["messages"]) == 4
    code, out, _ = perdure("runs", "fork", "job-0", "--at", "agent/0/infer/0")
    assert code == 0
    run = out.split()[0]
    assert f"{run} goes on from record 2 of job-0, in session session_{run.removeprefix('run_')}." in out

    async def driven(rt: Runtime) -> None:
        await until(lambda: nothing_open(rt))

    with_store(url, driven, definitions=[biller], workers=True)
    shown = perdure("runs", "show", run)[1]
    assert "forked from t-42 at #2; what stands above was done by job-0" in shown
    assert "completed: answer" in shown
    for arguments, why in (
        (("sessions", "fork", "t-42", "--at", "99"), "no record 99"),
        (("sessions", "rewind", "t-42", "--to", "3"), "inside the turn of the run 'job-0'"),
        (("sessions", "fork", "t-4"), "There is no session 't-4' in container 'default'. Like it:"),
        (("runs", "fork", "job-0"), "say behind which of its steps"),
        (("runs", "fork", "job-0", "--at", "agent/9"), "no finished step named 'agent/9'"),
        (("runs", "fork", "job-9"), "There is no run 'job-9'"),
    ):
        code, _, err = perdure(*arguments)
        assert code == 1
        assert why in err


def test_a_session_goes_out_and_in(url: str, perdure: Any, tmp_path: Path):
    assert perdure("sessions", "export", "t-42")[:2] == (0, "t-42 is in t-42.jsonl, with its child runs: 17 lines.\n")
    code, _, err = perdure("sessions", "import", "t-42.jsonl")
    assert code == 1
    assert "is in container 'default' already" in err
    assert perdure("sessions", "import", "t-42.jsonl", "--container", "other")[0] == 0
    assert "You were charged twice." in perdure("sessions", "show", "t-42", "--container", "other")[1]
    assert "cannot be read: No such file" in perdure("sessions", "import", "nothing.jsonl")[2]
    assert "cannot be written: No such file" in perdure("sessions", "export", "t-42", "no/where.jsonl")[2]


def test_a_backup_is_a_store_that_holds_what_was_open(url: str, perdure: Any, tmp_path: Path):
    async def begun(rt: Runtime) -> None:
        await rt.container("default").log.accept(
            NewRun("open", "t-9", "Billing"), rec.RunStarted("Billing", "agent", ASKED)
        )

    with_store(url, begun)
    code, out, _ = perdure("backup", "copy.db")
    assert code == 0
    assert out.startswith("copy.db is a copy of ")
    code, _, err = perdure("backup", "copy.db")
    assert code == 1
    assert "is there already" in err
    copy = ("--store", f"sqlite:///{tmp_path}/copy.db")
    assert "held (queued)" in perdure("runs", "list", *copy)[1]
    code, out, _ = perdure("doctor", *copy)
    assert code == 0
    assert "default: 1 held: held, as this store is a copy" in out
    assert "default: 1 queued" in perdure("doctor", "--take-over", *copy)[1]


def test_doctor_says_what_is_wrong(url: str, perdure: Any):
    code, out, _ = perdure("doctor", "--deep")
    assert code == 0
    assert {line.split()[0] for line in out.splitlines()} == {"ok"}
    assert "every payload can be read" in out
    with_store(url, _damage)
    code, out, _ = perdure("doctor")
    assert code == 1
    assert "bad" in out
    assert "default/t-43, 1 missing" in out
    found = json.loads(perdure("doctor", "--json")[1])
    assert found["well"] is False


@pytest.mark.parametrize("url", ["postgres"], indirect=True)
def test_doctor_says_that_a_server_does_not_wait_for_its_disk(url: str, perdure: Any):
    assert "synchronous_commit" not in perdure("doctor")[1]
    sign = "&" if "?" in url else "?"
    code, out, _ = perdure("doctor", "--store", f"{url}{sign}options=-c%20synchronous_commit%3Doff")
    assert code == 0
    assert "synchronous_commit is off" in out


async def _damage(rt: Runtime) -> None:
    def script() -> Any:
        yield Sql("DELETE FROM records WHERE session = 't-43' AND seq = 2")

    await rt.db.write(script)


@pytest.mark.parametrize(
    ("store", "code", "why"),
    [
        (None, 2, "No store is named. Give --store"),
        ("sqlite:///nowhere.db", 1, "There is no store at nowhere.db"),
        ("sqlite:///empty.db", 1, "has no store of Perdure's in it"),
        ("sqlite:///text.db", 1, "is no"),
        ("desk.db", 1, "Use sqlite:///name.db"),
        ("postgresql://nobody@localhost:1/nothing", 1, "does not answer"),
    ],
)
def test_a_store_that_is_not_there_is_named(
    store: str | None, code: int, why: str, perdure: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("PERDURE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.db").touch()
    (tmp_path / "text.db").write_text("hello " * 1000)
    for command in (["runs", "list"], ["doctor"]):
        found, out, err = perdure(*command, *(["--store", store] if store else []))
        assert (found, out) == (code, "")
        assert why in err
    assert not (tmp_path / "nowhere.db").exists(), "nothing is made by looking"


async def test_a_timeline_shows_deaths_and_what_was_answered_from_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(desk, "place", tmp_path)
    where = f"sqlite:///{tmp_path}/desk.db"
    (tmp_path / "go").touch()
    processes = Processes(where, tmp_path)
    try:
        assert await processes.run("run", "slow", "job", kill="3:before") == -signal.SIGKILL
    finally:
        await processes.end()
    async with desk.runtime(where) as rt:
        await rt.run(desk.DESK, "slow", session_id="s", run_id="job")
    done = await asyncio.to_thread(
        subprocess.run,
        [*COMMAND, "runs", "show", "job", "--store", where],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    death = next(
        n for n, line in enumerate(lines) if "the process died; owner 2 goes on, 1 finished step is answered" in line
    )
    assert any("=  agent/0/infer/0" in line for line in lines[:death])
    assert all("=" not in line for line in lines[death + 1 : -3])
    assert "= was finished before another owner went on" in done.stdout


# -- a worker --------------------------------------------------------------------------------------------------------


def start_worker(*arguments: str, **more: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(str(ROOT / one) for one in ("src", ""))
    return subprocess.Popen(
        [*COMMAND, "worker", *arguments],
        env=environment(PYTHONPATH=path, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_takes_runs_and_leaves_them_when_it_is_told_to_stop(how: signal.Signals, url: str, tmp_path: Path):
    async def begun(rt: Runtime) -> None:
        log = rt.container("default").log
        for run, definition in (("one", "Billing"), ("two", "Slow")):
            await log.accept(NewRun(run, run, definition), rec.RunStarted(definition, "agent", ASKED))

    with_store(url, begun, definitions=[slow])
    worker = start_worker("--app", "tests.cli.desk_app:runtime", STORE=url, DESK=str(tmp_path))
    with worker:  # which waits for its end
        try:
            wait_for(lambda: (tmp_path / "waits").exists() and states(url)["one"] == "completed")
            worker.send_signal(how)
            out, _ = worker.communicate(timeout=60)
        finally:
            worker.kill()
    assert worker.returncode == 0
    assert "Working on" in out
    assert "Run one of 'Billing' is driven on here" in out
    assert f"{how.name}: ending; left for others: two. Once more ends it at once." in out
    assert states(url)["two"] == "queued"


def test_a_worker_whose_tool_does_not_heed_its_cancel_ends_at_the_second_signal(tmp_path: Path):
    async def begun(rt: Runtime) -> None:
        started = rec.RunStarted("Slow", "agent", ASKED)
        await rt.container("default").log.accept(NewRun("two", "two", "Slow"), started)

    where = f"sqlite:///{tmp_path}/desk.db"
    with_store(where, begun, definitions=[slow])
    worker = start_worker("--app", "tests.cli.desk_app:runtime", STORE=where, DESK=str(tmp_path), STUBBORN="yes")
    with worker:
        try:
            wait_for((tmp_path / "waits").exists)
            worker.send_signal(signal.SIGTERM)
            assert worker.stdout is not None
            assert any(": ending" in line for line in worker.stdout)
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(timeout=60) == -signal.SIGTERM
        finally:
            worker.kill()
    assert states(where)["two"] in ("running", "queued")


def states(url: str) -> dict[str, str]:
    async def work(rt: Runtime) -> dict[str, str]:
        return {one.id: one.status for one in await rt.runs()}

    return with_store(url, work)


def wait_for(true: Callable[[], Any]) -> None:
    """Wait for something that another process does; nothing but looking tells."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("desk_app", "is not module:attribute"),
        ("tests.cli.nowhere:x", "There is no module 'tests.cli.nowhere'"),
        ("tests.cli.desk_app:nobody", "tests.cli.desk_app has no 'nobody'"),
        ("tests.cli.desk_app:nothing", "name an agent, a network"),
        ("tests.cli.desk_app:definitions", "No store is named"),
    ],
)
def test_an_app_that_cannot_be_used_is_wrong_usage(app: str, why: str, perdure: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("PERDURE_URL", raising=False)
    code, _, err = perdure("worker", "--app", app)
    assert code == 2
    assert why in err
