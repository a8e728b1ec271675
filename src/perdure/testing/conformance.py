"""What every log must do, as tests that you run against your own.

    class TestMyLog(LogConformance):
        @pytest.fixture
        async def logs(self):
            store = await open_my_store()
            yield lambda container="default", owner="one": MyLog(store, owner, container)
            await store.close()

`logs` makes a log over one empty store, for a container and for an owner of runs, which stands for a process. The tests
are coroutines, so pytest needs `asyncio_mode = "auto"`. To be told what was wrong, write into a `conftest.py`:
`pytest.register_assert_rewrite("perdure.testing.conformance")`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from itertools import pairwise
from typing import cast, get_args

from perdure.log.log import CancelWins, Entry, NewRun, Token
from perdure.testing.fork_conformance import ForkConformance
from perdure.testing.log_acts import CANCELLED as CANCELLED
from perdure.testing.log_acts import DONE as DONE
from perdure.testing.log_acts import MakeLog as MakeLog
from perdure.testing.log_acts import begin as begin
from perdure.testing.log_acts import claimed as claimed
from perdure.testing.log_acts import gapless as gapless
from perdure.testing.log_acts import kinds as kinds
from perdure.testing.log_acts import owned as owned
from perdure.testing.log_acts import raises as raises
from perdure.testing.log_acts import step as step
from perdure.types import records as rec
from perdure.types.errors import Conflict, UnknownName
from perdure.types.messages import TextMessage, ToolCall, ToolResultMessage
from perdure.types.usage import Usage
from perdure.types.waits import Answer, Approval

_CALL = ToolCall("call_1", "weather", {"city": "Österbymo \u0000 \N{EARTH GLOBE EUROPE-AFRICA}"})
_ERROR = rec.ErrorInfo("ValueError", "no", "agent/0")
PAYLOADS: tuple[rec.Payload, ...] = (
    rec.RunStarted("A", "agent", (TextMessage("user", "hi"),), state={"n": [1, 2.5, None]}, options={"max_iter": 3}),
    rec.InferenceDone("A", (TextMessage("assistant", "Hm."),), usage=Usage(10, 5), texts={"h": "Be kind."}),
    rec.ToolDone("A", ToolResultMessage(_CALL, {"data": {"deep": [[], {}, "x"]}}), "unknown", usage=Usage(1, 1)),
    rec.RouteDone((rec.Pick(("A",)), rec.Pick(("B", "C"), {"a": 1})), by="R"),
    rec.AgentDone("A", "answer", has_output=True, output={"x": 1}),
    rec.StepDone("charge", {"id": 5}, "ab12"),
    rec.InferDone("ask", "blue", "ab12", model="m", usage=Usage(3, 4)),
    rec.Imported(
        "history", messages=(TextMessage("user", "so far"),), results=(rec.PastResult("A", "r/0", 1.5, 0, 1),)
    ),
    rec.ChildDone("run_2", "failed", Usage(3, 4)),
    rec.WaitOpened("A", (Approval("wait_1", "refund", {"amount": 5}, "run_1"),)),
    rec.StepFailed("agent/0/infer/0", _ERROR),
    rec.AttemptFailed("agent/0/infer/0", 2, _ERROR, 1.5),
    rec.Started("agent/0/infer/0/tool/0"),
    rec.TransactionDone("pay", {"id": 5}),
    rec.AttemptLost("agent/0/infer/1", Usage(3, 4), told=True),
    rec.Claimed(2, died=True),
    rec.RunFinished("failed", "error", True, {"a": 1}, Usage(1, 2), _ERROR),
    rec.Answered("wait_1", Answer("yes", "ada")),
    rec.CancelAsked("deadline", "after 5 s"),
    rec.Compacted((TextMessage("user", "so far"),)),
    rec.Forked("ses_0", 7, "run_0"),
    rec.Rewound(3),
    rec.SessionEvent("note", "said", "evt_1", 2, {"n": [1]}, {"from_agent": "a"}, "evt_0", "ada"),
    rec.StateSet("ended", True),
    rec.Unparked(forced=True),
    rec.Erased("tool"),
)
"""One of each kind."""


class LogConformance(ForkConformance):
    """The rules of a log; a subclass has a fixture `logs`."""

    # -- taking runs in ----------------------------------------------------------------------------------------------

    async def test_a_run_begins_at_once_in_a_free_session(self, logs: MakeLog) -> None:
        log = logs()
        accepted = await begin(log)
        token, row = accepted.token, await log.run("run_1")
        assert token is not None
        assert (token.run_id, token.session_id, token.epoch, bool(token.nonce)) == ("run_1", "ses_1", 1, True)
        assert (accepted.head, accepted.known, accepted.run) == (1, False, row)
        assert (row.status, row.epoch, row.position, row.deaths, row.user_id) == ("running", 1, 1, 0, "ada")
        assert row.owner is not None
        assert [one.kind for one in await log.read_run("run_1")] == ["run_started"]

    async def test_a_known_run_is_not_taken_in_again(self, logs: MakeLog) -> None:
        log = logs()
        first = await begin(log, input_hash="a")
        again = await begin(log, input_hash="a")
        assert (again.known, again.token, again.run) == (True, None, first.run)
        elsewhere = await begin(log, session_id="ses_2", input_hash="a")
        assert (elsewhere.known, elsewhere.run.session_id) == (True, "ses_1")
        assert await log.read_session("ses_2") == []
        assert await kinds(log) == ["run_started"]
        assert await log.append(cast("Token", first.token), [step("k")]) == 2

    async def test_a_run_id_with_another_input_is_a_conflict(self, logs: MakeLog) -> None:
        log = logs()
        await begin(log, input_hash="a")
        error = await raises(Conflict, begin(log, input_hash="b"))
        assert "run_1" in str(error)
        other = log.accept(NewRun("run_1", "ses_1", "B", "a"), rec.RunStarted("B", "agent", ()))
        await raises(Conflict, other)
        assert await kinds(log) == ["run_started"]

    async def test_a_run_handed_in_by_many_at_once_is_one_run(self, logs: MakeLog) -> None:
        some = [logs(owner=f"owner_{n}") for n in range(4)]
        accepted = await asyncio.gather(*(begin(log, session_id=f"ses_{n % 2}") for n, log in enumerate(some * 4)))
        assert sum(one.token is not None for one in accepted) == 1
        assert sum(not one.known for one in accepted) == 1
        records = [*await some[0].read_session("ses_0"), *await some[0].read_session("ses_1")]
        assert [one.kind for one in records] == ["run_started"]

    # -- turns -------------------------------------------------------------------------------------------------------

    async def test_later_runs_of_a_session_queue_in_order(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        for n in (2, 3):
            queued = await begin(log, f"run_{n}")
            assert (queued.token, queued.run.status, queued.run.position, queued.run.owner) == (None, "queued", n, None)
        assert await log.claim("run_2") is None
        await log.append(token, [DONE])
        late = await begin(log, "run_4")
        assert late.token is None, "a new run must not overtake those that wait"
        assert await log.claim("run_3") is None
        for n in (2, 3, 4):
            token = await claimed(log, f"run_{n}")
            assert token.epoch == 1
            await log.append(token, [DONE])
        assert (await begin(log, "run_5")).token is not None, "the session is free again"

    async def test_turns_of_one_session_never_overlap(self, logs: MakeLog) -> None:
        some = [logs(owner=f"owner_{n}") for n in range(3)]
        accepted = await asyncio.gather(*(begin(some[n % 3], f"run_{n}") for n in range(9)))
        order = [one.run.id for one in sorted(accepted, key=lambda one: one.run.position)]
        tokens = [one.token for one in accepted if one.token is not None]
        assert [one.run_id for one in tokens] == order[:1]
        driven = list[str]()
        token: Token | None = tokens[0]
        while token is not None:
            driven.append(token.run_id)
            await some[0].append(token, [step("k"), DONE])
            tries = [log.claim(run) for run in order for log in some]
            found = [one[0] for one in await asyncio.gather(*tries) if one is not None]
            assert len(found) <= 1, "two runs of one session were claimed"
            token = found[0] if found else None
        assert driven == order

    async def test_a_waiting_run_keeps_its_turn(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await begin(log, "run_2")
        await log.append(token, [Entry(None, PAYLOADS[7])], "waiting")
        row = await log.run("run_1")
        assert (row.status, row.owner) == ("waiting", None)
        assert await log.claim("run_2") is None
        again = await claimed(logs(owner="two"))
        assert again.epoch == 2
        await raises(Conflict, log.append(token, [step("k")]))
        await log.append(again, [DONE])
        assert await log.claim("run_2") is not None

    async def test_a_parked_run_gives_its_turn_away(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await begin(log, "run_2")
        await log.append(token, [], "parked")
        assert (await log.run("run_1")).status == "parked"
        assert await log.claim("run_1") is None
        await raises(Conflict, log.append(token, [step("k")]))
        assert await log.claim("run_2") is not None

    # -- owning ------------------------------------------------------------------------------------------------------

    async def test_a_healthy_owner_is_never_preempted(self, logs: MakeLog) -> None:
        log, other = logs(), logs(owner="two")
        token = await owned(log)
        assert await other.claim("run_1") is None
        assert await other.claim("run_1", dead=["somebody else"]) is None
        assert await log.append(token, [step("k")]) == 2

    async def test_an_older_epoch_is_refused(self, logs: MakeLog) -> None:
        log, other = logs(), logs(owner="two")
        old = await owned(log)
        await log.append(old, [step("before")])
        new = await claimed(other, dead=True)
        assert new.epoch == old.epoch + 1
        await raises(Conflict, log.append(old, [step("after")]))
        await raises(Conflict, log.append(old, [DONE]))
        await raises(Conflict, log.append(old, [], "waiting"))
        await other.append(new, [step("mine")])
        assert await kinds(log) == ["run_started", "before", "mine"]
        assert (await log.run("run_1")).status == "running"

    async def test_the_same_epoch_with_another_nonce_is_refused(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        forged = Token(token.run_id, token.session_id, token.epoch, token.nonce[::-1] + "0")
        await raises(Conflict, log.append(forged, [step("k")]))
        assert await kinds(log) == ["run_started"]

    async def test_one_of_many_claims_wins(self, logs: MakeLog) -> None:
        first = logs()
        await owned(first)
        owner = (await first.run("run_1")).owner
        assert owner is not None
        some = [logs(owner=f"owner_{n}") for n in range(8)]
        found = await asyncio.gather(*(log.claim("run_1", dead=[owner]) for log in some))
        assert [token.epoch for token, _ in filter(None, found)] == [2]
        assert (await first.run("run_1")).owner != owner

    async def test_a_new_owner_has_seen_all_that_was_accepted_before(self, logs: MakeLog) -> None:
        log, other = logs(), logs(owner="two")
        for n in range(12):
            run, session = f"run_{n}", f"ses_{n}"
            token = await owned(log, run, session)
            owner = (await log.run(run)).owner
            assert owner is not None
            appends = [log.append(token, [step(f"k{k}")]) for k in range(6)]
            claim = other.claim(run, dead=[owner])
            cut = n % 6
            *done, taken = await asyncio.gather(*appends[:cut], *appends[cut:], claim, return_exceptions=True)
            assert isinstance(taken, tuple)
            head = taken[1]
            for one in done:
                assert isinstance(one, (int, Conflict))
                assert isinstance(one, Conflict) or one <= head, "written after the claim, by the old owner"
            assert len(await other.read_run(run)) == head == 1 + sum(isinstance(one, int) for one in done)

    async def test_deaths_count_until_a_step_is_closed(self, logs: MakeLog) -> None:
        log = logs()
        await owned(log)
        for deaths in (1, 2):
            token = await claimed(log, dead=True)
            assert (await log.run("run_1")).deaths == deaths
        await log.append(token, [Entry(None, rec.Started("x"))])
        token = await claimed(log, dead=True)
        assert (await log.run("run_1")).deaths == 3
        await log.append(token, [step("k")])
        token = await claimed(log, dead=True)
        assert (await log.run("run_1")).deaths == 1
        await log.append(token, [], "waiting")
        await claimed(log)
        assert (await log.run("run_1")).deaths == 1

    async def test_nothing_is_appended_to_a_run_that_is_over(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await log.append(token, [DONE])
        await raises(Conflict, log.append(token, [step("k")]))
        await raises(Conflict, log.append(token, [CANCELLED]))
        assert await log.claim("run_1") is None
        assert await kinds(log) == ["run_started", "run_finished"]
        assert ((await log.run("run_1")).status, (await log.run("run_1")).owner) == ("completed", None)

    async def test_an_unknown_run_is_said_to_be_unknown(self, logs: MakeLog) -> None:
        log = logs()
        token = Token("run_9", "ses_9", 1, "x")
        await raises(UnknownName, log.run("run_9"))
        await raises(UnknownName, log.claim("run_9"))
        await raises(UnknownName, log.read_run("run_9"))
        await raises(UnknownName, log.post("run_9", rec.CancelAsked()))
        await raises(UnknownName, log.append(token, [step("k")]))

    # -- order -------------------------------------------------------------------------------------------------------

    async def test_the_sequence_has_no_gap_and_no_reader_sees_one(self, logs: MakeLog) -> None:
        log, other = logs(), logs(owner="two")
        sessions = [f"ses_{n}" for n in range(4)]
        tokens = [await owned(log, f"run_{n}", one) for n, one in enumerate(sessions)]
        writing = True

        async def read(session: str) -> None:
            seen = 0
            while writing:
                records = await other.read_session(session, seen)
                assert [one.seq for one in records] == list(range(seen + 1, seen + 1 + len(records)))
                seen += len(records)
                await asyncio.sleep(0)

        async def write(token: Token, n: int) -> list[int]:
            first = await log.append(token, [step(f"a/{n}"), step(f"b/{n}", n)])
            return [first - 1, first, await other.post(token.run_id, rec.Answered(f"wait_{n}", Answer("x")))]

        readers = [asyncio.create_task(read(one)) for one in sessions]
        given = await asyncio.gather(*(write(token, n) for n in range(15) for token in tokens))
        writing = False
        await asyncio.gather(*readers)
        for n, session in enumerate(sessions):
            records = await log.read_session(session)
            assert len(records) == 1 + 15 * 3
            assert gapless([one.seq for one in records])
            assert sorted([1, *(seq for some in given[n::4] for seq in some)]) == [one.seq for one in records]
            keys = [one.key for one in records]
            assert all(f"b{a[1:]}" == b for a, b in pairwise(keys) if a and a.startswith("a/")), "an append was split"

    async def test_one_bad_append_fails_alone(self, logs: MakeLog) -> None:
        log = logs()
        old = await owned(log, "run_old", "ses_old")
        await claimed(log, "run_old", dead=True)
        tokens = [await owned(log, f"run_{n}", f"ses_{n}") for n in range(20)]
        await asyncio.gather(*(log.append(token, [step("k", 1)]) for token in tokens))

        def doing(n: int, token: Token) -> Awaitable[int]:
            if n % 5 == 1:
                return log.append(token, [step("new"), step("k", 2)])  # closed otherwise
            return log.append(old if n % 5 == 2 else token, [step("new")])  # fenced, or fine

        got = await asyncio.gather(*(doing(*one) for one in enumerate(tokens)), return_exceptions=True)
        for n, one in enumerate(got):
            bad = n % 5 in (1, 2)
            assert isinstance(one, Conflict) if bad else one == 3, f"append {n} gave {one!r}"
            assert len(await log.read_run(f"run_{n}")) == (2 if bad else 3)

    # -- repeats -----------------------------------------------------------------------------------------------------

    async def test_a_step_is_closed_once(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        assert await log.append(token, [step("k", {"a": 1})]) == 2
        assert await log.append(token, [step("k", {"a": 1})]) == 2
        error = await raises(Conflict, log.append(token, [step("k", {"a": 2})]))
        assert "'k'" in str(error)
        await raises(Conflict, log.append(token, [step("m"), step("m")]))
        assert await log.append(token, [step("k", {"a": 1}), step("l")]) == 3
        assert await kinds(log) == ["run_started", "k", "l"]

    async def test_repeating_an_append_writes_it_once(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        for n, entries in enumerate(
            (
                [Entry(None, rec.Started("x")), step("a"), step("b")],
                [Entry(None, rec.Started("y"))],
                [Entry(None, rec.Started("z")), step("c", "long" * 30_000)],
            )
        ):
            before = len(await log.read_run("run_1"))
            given = await log.append(token, entries, repeat=n == 1)
            await log.post("run_1", rec.Answered(f"wait_{n}", Answer("x")))
            assert await log.append(token, entries, repeat=True) == given
            assert len(await log.read_run("run_1")) == before + len(entries) + 1
        last = [step("d"), DONE]
        given = await log.append(token, last)
        assert await log.append(token, last, repeat=True) == given
        assert await log.append(token, last) == given
        assert await log.append(token, last[1:], repeat=True) == given
        assert (await kinds(log))[-2:] == ["d", "run_finished"]

    async def test_what_an_earlier_owner_started_is_started_anew(self, logs: MakeLog) -> None:
        log = logs()
        started = Entry(None, rec.Started("x"))
        await log.append(await owned(log), [started])
        token = await claimed(log, dead=True)
        assert await log.append(token, [started]) == 3
        assert await log.append(token, [started], repeat=True) == 3
        token = await claimed(log, dead=True)
        assert await log.append(token, [started], repeat=True) == 4

    # -- inbox and cancel --------------------------------------------------------------------------------------------

    async def test_only_inbox_kinds_are_posted(self, logs: MakeLog) -> None:
        log = logs()
        await owned(log)
        for payload in PAYLOADS:
            if isinstance(payload, (rec.Answered, rec.CancelAsked)):
                await log.post("run_1", payload)
            else:
                error = await raises(TypeError, log.post("run_1", payload))
                assert type(payload).__name__ in str(error)
        assert await kinds(log) == ["run_started", "answer", "cancel"]

    async def test_anyone_may_post_at_any_time(self, logs: MakeLog) -> None:
        log, other = logs(), logs(owner="two")
        token = await owned(log)
        await begin(log, "run_2")
        answered = rec.Answered("wait_1", Answer("x"))
        assert await other.post("run_2", answered) == 3
        assert await other.post("run_1", answered) == 4
        await log.append(token, [DONE])
        assert await other.post("run_1", answered) == 6
        assert [one.seq for one in await log.read_run("run_1")] == [1, 4, 5, 6]
        assert [one.seq for one in await log.read_run("run_2")] == [2, 3]
        assert (await log.run("run_1")).status == "completed"

    async def test_a_cancel_that_came_first_wins(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await log.post("run_1", rec.CancelAsked())
        await raises(CancelWins, log.append(token, [step("k"), DONE]))
        assert await kinds(log) == ["run_started", "cancel"]
        assert (await log.run("run_1")).status == "running"
        assert await log.append(token, [step("k")]) == 3, "what had finished is kept"
        await log.append(token, [CANCELLED])
        assert (await log.run("run_1")).status == "cancelled"

    async def test_a_cancel_that_came_last_changes_nothing(self, logs: MakeLog) -> None:
        log = logs()
        await log.append(await owned(log), [DONE])
        await log.post("run_1", rec.CancelAsked())
        assert (await log.run("run_1")).status == "completed"

    async def test_the_owners_own_cancel_counts_too_but_a_spent_budget_does_not(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await log.append(token, [Entry(None, rec.CancelAsked("budget"))])
        await log.append(token, [DONE])
        assert (await log.run("run_1")).status == "completed"
        token = await owned(log, "run_2")
        await raises(CancelWins, log.append(token, [Entry(None, rec.CancelAsked("deadline")), DONE]))
        await log.append(token, [Entry(None, rec.CancelAsked("deadline"))])
        await raises(CancelWins, log.append(token, [DONE]))

    async def test_cancel_against_finish_has_one_end(self, logs: MakeLog) -> None:
        log, other = logs(), logs(owner="two")
        for n in range(10):
            run = f"run_{n}"
            token = await owned(log, run)
            doing = [log.append(token, [DONE]), other.post(run, rec.CancelAsked())]
            await asyncio.gather(*(doing if n % 2 else reversed(doing)), return_exceptions=True)
            records = [one.kind for one in await log.read_run(run)]
            if records == ["run_started", "cancel"]:
                await log.append(token, [CANCELLED])
                assert (await log.run(run)).status == "cancelled"
            else:
                assert records == ["run_started", "run_finished", "cancel"]
                assert (await log.run(run)).status == "completed"

    # -- reading -----------------------------------------------------------------------------------------------------

    async def test_ranges_are_exclusive_at_both_ends(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await log.append(token, [step(f"k{n}") for n in range(2, 7)])

        async def seqs(after: int = 0, before: int | None = None) -> list[int]:
            return [one.seq for one in await log.read_session("ses_1", after, before)]

        assert await seqs() == [1, 2, 3, 4, 5, 6]
        assert await seqs(2, 5) == [3, 4]
        assert await seqs(4) == [5, 6]
        assert await seqs(0, 1) == await seqs(6) == await seqs(99) == await seqs(3, 4) == []
        assert [one.seq for one in await log.read_run("run_1", 4)] == [5, 6]
        assert await log.read_run("run_1", 6) == []
        assert await log.read_session("ses_unknown") == []

    async def test_a_session_is_compacted_between_its_turns(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        point = rec.Compacted((TextMessage("user", "so far"),))
        assert "run_1" in str(await raises(Conflict, log.mark("ses_1", point, 1)))
        await log.append(token, [DONE])
        assert await log.compacted("ses_1") == 0
        await raises(Conflict, log.mark("ses_1", point, 1))
        await raises(UnknownName, log.mark("ses_2", point, 0))
        assert [await log.mark("ses_1", point, head) for head in (2, 3)] == [3, 4]
        found = [await log.compacted("ses_1", before) for before in (None, 5, 4, 3)]
        assert (found, await log.compacted("ses_2")) == ([4, 4, 3, 0], 0)
        *_, last = await log.read_session("ses_1")
        assert (last.seq, last.run_id, last.key, last.payload) == (4, "", None, point)
        assert (await begin(log, "run_2")).run.position == 5

    async def test_a_session_is_rewound_between_its_turns(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        assert "rewound" in str(await raises(Conflict, log.mark("ses_1", rec.Rewound(0), 1)))
        await log.append(token, [DONE])
        point = rec.Compacted((TextMessage("user", "so far"),))
        assert [await log.mark("ses_1", one, head) for one, head in ((point, 2), (point, 3))] == [3, 4]
        assert await log.mark("ses_1", rec.Rewound(3), 4) == 5
        assert [await log.compacted("ses_1"), await log.compacted("ses_1", 5)] == [3, 4]
        assert await log.mark("ses_1", rec.Rewound(4), 5) == 6, "which takes the first one back"
        assert await log.mark("ses_1", rec.Rewound(2), 6) == 7
        assert [await log.compacted("ses_1"), await log.compacted("ses_1", 7)] == [0, 4]
        assert gapless([one.seq for one in await log.read_session("ses_1")]), "nothing is taken away"

    async def test_a_run_reads_its_own_records_only(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await begin(log, "run_2")
        await log.append(token, [step("a"), DONE])
        await log.append(await claimed(log, "run_2"), [step("a"), DONE])
        await owned(log, "run_3", "ses_2")
        assert [one.seq for one in await log.read_run("run_1")] == [1, 3, 4]
        assert [one.seq for one in await log.read_run("run_2")] == [2, 5, 6]
        assert {one.run_id for one in await log.read_run("run_2")} == {"run_2"}
        assert [one.seq for one in await log.read_run("run_3")] == [1]

    async def test_every_kind_of_payload_comes_back(self, logs: MakeLog) -> None:
        log = logs()
        assert {type(one) for one in PAYLOADS} == set(get_args(rec.Payload)), "a kind is missing here"
        token = await owned(log)
        entries = [Entry(f"k/{n}" if n % 2 else None, one) for n, one in enumerate(PAYLOADS)]
        ending = [one for one in entries if isinstance(one.payload, rec.RunFinished)]
        entries = [*(one for one in entries if one not in ending), *ending]
        await log.append(token, entries)
        records = (await log.read_run("run_1"))[1:]
        assert [(one.key, one.payload) for one in records] == [(one.key, one.payload) for one in entries]
        assert all((one.run_id, one.session_id, one.version) == ("run_1", "ses_1", 1) for one in records)
        times = [one.created_at for one in records]
        assert times == sorted(times)
        assert times[0] > 0

    async def test_a_record_s_time_is_its_maker_s_if_it_has_one(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await log.append(token, [Entry("a", rec.StepDone("a", 1), 1_700_000_000.123456), step("b")])
        _, first, second = await log.read_run("run_1")
        assert first.created_at == 1_700_000_000.123456
        assert second.created_at > first.created_at

    async def test_payloads_of_any_size_come_back(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        sizes = [0, 1, 1_000, 5_000, 65_000, 65_536, 66_000, 1_000_000]
        await log.append(token, [step(f"all/{n}", "x" * n) for n in sizes])
        for n in sizes:
            await log.append(token, [step(f"one/{n}", "y" * n)])
        records = (await log.read_run("run_1"))[1:]
        assert gapless([1, *(one.seq for one in records)])
        assert [len(cast("rec.StepDone", one.payload).result) for one in records] == sizes * 2
        assert await log.append(token, [step("one/1000000", "y" * 1_000_000)]) == records[-1].seq
        await raises(Conflict, log.append(token, [step("one/1000000", "z" * 1_000_000)]))

    async def test_what_cannot_be_encoded_is_not_written(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await raises(TypeError, log.append(token, [step("fine"), step("bad", object())]))
        assert await kinds(log) == ["run_started"]

    async def test_containers_see_nothing_of_each_other(self, logs: MakeLog) -> None:
        ours, theirs = logs("ours"), logs("theirs")
        token = await owned(ours)
        await ours.append(token, [step("k", "x" * 100_000)])
        for doing in (theirs.run("run_1"), theirs.read_run("run_1"), theirs.claim("run_1")):
            await raises(UnknownName, doing)
        await raises(UnknownName, theirs.post("run_1", rec.CancelAsked()))
        await raises(UnknownName, theirs.append(token, [step("l")]))
        assert await theirs.read_session("ses_1") == []
        mine = await owned(theirs)
        await raises(Conflict, theirs.append(token, [step("l")]))
        await theirs.append(mine, [step("k", 1), DONE])
        assert await kinds(ours) == ["run_started", "k"]
        assert (await ours.run("run_1")).status == "running"
        for log, owner, result in ((ours, token, "x" * 100_000), (theirs, mine, 1)):
            assert await log.append(owner, [step("k", result)], repeat=True) == 2
        assert await ours.append(token, [step("l")]) == 3
