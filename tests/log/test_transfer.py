"""A session that is written out and taken in again is the same session."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.db.database import Sql
from perdure.log.copies import open_copy
from perdure.log.log import Entry, NewRun
from perdure.log.sql import SqlLog
from perdure.log.transfer import ImportRefused, export_session, import_session
from perdure.testing.conformance import PAYLOADS
from perdure.types import records as rec
from perdure.types.errors import Conflict, PerdureError, UnknownName
from tests.log.stores import log_of, opened

texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=5)
payloads = st.one_of(
    st.sampled_from(PAYLOADS),
    st.builds(rec.StepDone, texts, st.one_of(texts, st.integers(-(2**53), 2**53), st.just("x" * 70_000))),
)
entries = st.lists(st.tuples(st.none() | st.sampled_from(["k1", "k2"]), payloads), max_size=4)
ends = st.sampled_from(["completed", "failed", None, "waiting", "parked"])
written = st.lists(st.tuples(st.booleans(), entries, ends), min_size=1, max_size=4)


async def write(log: SqlLog, runs: Any) -> None:
    """Write a session of some runs, and a child session for those that shall have one."""
    for n, (child, said, end) in enumerate(runs):
        new = NewRun(f"run_{n}", "s", "Desk", "hash", user_id="ada")
        accepted = await log.accept(new, rec.RunStarted("Desk", "agent", ()))
        if child:
            below = NewRun(f"run_{n}_child", f"s_{n}", "Helper", parent=f"run_{n}", parent_key="agent/0")
            await log.accept(below, rec.RunStarted("Helper", "agent", ()))
        token = accepted.token
        if token is None:
            continue
        for key, payload in said:
            try:
                await log.append(token, [Entry(key, payload)])
            except PerdureError:  # the run has ended, or the step is closed
                break
        try:
            if end in ("waiting", "parked"):
                await log.append(token, [], end)
            elif end is not None:
                await log.append(token, [Entry(None, rec.RunFinished(end, "answer"))])
        except PerdureError:
            pass


async def dump(log: SqlLog) -> list[Any]:
    """All rows of a container, without what is another one in every store."""

    def script() -> Any:
        of = "container = ? ORDER BY id"
        sessions = yield Sql(
            f"SELECT id, turn, user_id, title, parent, created_at FROM sessions WHERE {of}", (log.container,)
        )
        runs = yield Sql(
            "SELECT id, session, definition, status, input_hash, position, last, cancelled, parent, parent_key, "
            f"user_id, deaths, held, claimed_at, created_at FROM runs WHERE {of}",
            (log.container,),
        )
        records = yield Sql(
            "SELECT r.session, r.seq, r.run, r.key, r.kind, r.version, r.payload, b.payload, r.blob, r.created_at "
            "FROM records r LEFT JOIN blobs b ON b.slot = r.slot WHERE r.container = ? ORDER BY r.session, r.seq",
            (log.container,),
        )
        return [
            sessions,
            runs,
            [[bytes(one) if isinstance(one, memoryview) else one for one in row] for row in records],
        ]

    return await log.db.read(script)


async def goes_through(url: str, runs: Any, folder: Path) -> None:
    async with opened(url, "normal") as db:
        first, second, third = (log_of(db, container=uuid4().hex) for _ in range(3))
        await write(first, runs)
        assert await export_session(first, "s", folder / "one") > 2
        assert await import_session(second, folder / "one") == "s"
        await export_session(second, "s", folder / "two")
        assert await import_session(third, folder / "two") == "s"
        await export_session(third, "s", folder / "three")
        assert (folder / "two").read_bytes() == (folder / "three").read_bytes()
        assert await dump(second) == await dump(third)
        sessions, runs_, records = await dump(first)
        taken, taken_runs, taken_records = await dump(second)
        assert taken_records == records, "every byte of every record, blobs included"
        assert [row[2:] for row in taken] == [row[2:] for row in sessions]
        for before, after in zip(runs_, taken_runs, strict=True):
            assert after[:3] + after[4:12] + after[13:] == before[:3] + before[4:12] + before[13:]
            over = before[3] in ("completed", "failed", "cancelled", "parked")
            held = (before[3], before[12]) if over else ("parked", "queued" if before[3] == "running" else before[3])
            assert (after[3], after[12]) == held, "what was open is held"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=written)
async def test_what_is_taken_in_is_what_was_written_out(runs: Any, tmp_path: Path):
    await goes_through(f"sqlite:///{tmp_path}/log.db", runs, tmp_path)


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(runs=written)
async def test_what_is_taken_in_is_what_was_written_out_on_postgres(runs: Any, tmp_path: Path, postgres_url: str):
    await goes_through(postgres_url, runs, tmp_path)


async def test_a_session_goes_from_one_kind_of_store_to_the_other(tmp_path: Path, postgres_url: str):
    said = [("k1", rec.StepDone("s", "x" * 70_000))]
    async with opened(f"sqlite:///{tmp_path}/log.db") as here, opened(postgres_url) as there:
        await write(log_of(here), [(True, said, "completed")])
        await export_session(log_of(here), "s", tmp_path / "out")
        await import_session(log_of(there), tmp_path / "out")
        assert [one.payload for one in await log_of(there).read_session("s")] == [
            one.payload for one in await log_of(here).read_session("s")
        ]
        with pytest.raises(Conflict, match="the session 's' is in container 'default' already"):
            await import_session(log_of(there), tmp_path / "out")


async def test_a_held_run_that_was_taken_in_goes_on_after_a_takeover(tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/log.db") as db:
        await write(log_of(db), [(False, [], None), (False, [], None)])
        await export_session(log_of(db), "s", tmp_path / "out")
        log = log_of(db, container="copy")
        await import_session(log, tmp_path / "out")
        assert await log.claim("run_0") is None, "it is held"
        await open_copy(db, "unused", take_over=True)
        assert await log.claim("run_1") is None, "it is behind the other"
        assert await log.claim("run_0") is not None


async def test_a_taken_run_id_refuses_all_of_it(tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/log.db") as db:
        await write(log_of(db), [(True, [], "completed")])
        await export_session(log_of(db), "s", tmp_path / "out")
        log = log_of(db, container="other")
        await log.accept(NewRun("run_0_child", "elsewhere", "Desk"), rec.RunStarted("Desk", "agent", ()))
        with pytest.raises(Conflict, match="the run 'run_0_child' is in container 'other' already"):
            await import_session(log, tmp_path / "out")
        assert await log.read_session("s") == []
        with pytest.raises(UnknownName):
            await export_session(log, "s", tmp_path / "nothing")
        assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda lines: lines[:-1], "its end is missing"),
        (lambda lines: [*lines[:-2], lines[-1]], "not as it was written"),
        (lambda lines: [line.replace(b"Desk", b"Disk") for line in lines], "not as it was written"),
        (lambda lines: [*lines, lines[-1]], "something follows"),
        (lambda lines: lines[1:], "begins with the line"),
        (lambda lines: [lines[0].replace(b'"format":1', b'"format":2'), *lines[1:]], "has the format 2"),
        (lambda lines: [*lines[:3], *lines[4:]], "does not follow"),
        (
            lambda lines: [line.replace(b'"type":"step"', b'"type":"stop"') for line in lines],
            "line 5: the record cannot",
        ),
        (lambda _: [b"hello\n"], "line 1: this is no line"),
        (lambda _: [], "not whole"),
    ],
)
async def test_a_file_that_is_not_whole_is_refused(change: Any, why: str, tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/log.db") as db:
        await write(log_of(db), [(False, [("k1", rec.StepDone("s", 1))], "completed")])
        path = tmp_path / "out"
        await export_session(log_of(db), "s", path)
        path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))
        log = SqlLog(db, time.time, "one", "other")
        with pytest.raises(ImportRefused, match=why):
            await import_session(log, path)
        assert await log.read_session("s") == []
