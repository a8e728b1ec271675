"""What every log must do when a session is forked; a part of `perdure.testing.conformance`."""

from __future__ import annotations

from perdure.log.log import Fork, NewRun
from perdure.testing.log_acts import CANCELLED, DONE, MakeLog, begin, claimed, gapless, kinds, owned, raises, step
from perdure.types.errors import Conflict, InvalidId, UnknownName

_RUN = NewRun("run_1", "ses_1", "A")


class ForkConformance:
    """The rules of a log about forks."""

    async def test_a_fork_reads_its_base_up_to_the_cut(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        assert await log.append(token, [step("a"), step("b"), DONE]) == 4
        assert await log.fork(Fork("ses_2", "ses_1", 4)) == 5
        assert await log.fork(Fork("ses_2", "ses_1", 4)) == 5, "the same fork again is the same"
        for other in (Fork("ses_2", "ses_1", 3), Fork("ses_1", "ses_2", 4), Fork("ses_3", "ses_1", 4, run=_RUN)):
            await raises(Conflict, log.fork(other))
        await log.append(await owned(log, "run_2", "ses_1"), [step("base"), DONE])
        await log.append(await owned(log, "run_3", "ses_2"), [step("fork"), DONE])
        shared = ["run_started", "a", "b", "run_finished"]
        assert await kinds(log) == [*shared, "run_started", "base", "run_finished"]
        assert await kinds(log, "ses_2") == [*shared, "forked", "run_started", "fork", "run_finished"]
        records = await log.read_session("ses_2")
        assert gapless([one.seq for one in records])
        assert {one.session_id for one in records} == {"ses_2"}
        assert [one.seq for one in await log.read_session("ses_2", 2, 7)] == [3, 4, 5, 6]
        assert [one.seq for one in await log.read_session("ses_2", 4, 5)] == []
        await log.fork(Fork("ses_4", "ses_2", 7))
        await log.fork(Fork("ses_5", "ses_4", 3))
        assert await kinds(log, "ses_4") == [*shared, "forked", "run_started", "fork", "forked"]
        assert await kinds(log, "ses_5") == [*shared[:3], "forked"]

    async def test_a_fork_of_what_is_not_there_is_refused(self, logs: MakeLog) -> None:
        log = logs()
        await owned(log)
        for seq in (-1, 0, 2):
            assert "ses_1" in str(await raises(InvalidId, log.fork(Fork("ses_2", "ses_1", seq))))
        await raises(UnknownName, log.fork(Fork("ses_2", "ses_9", 1)))
        await raises(UnknownName, logs("other").fork(Fork("ses_2", "ses_1", 1)))
        assert await log.read_session("ses_2") == []

    async def test_a_fork_inside_a_run_makes_one_that_begins_with_its_records(self, logs: MakeLog) -> None:
        log = logs()
        token = await owned(log)
        await log.append(token, [step("a"), step("b"), step("c")])
        fork = Fork("ses_2", "ses_1", 3, None, NewRun("run_2", "ses_2", "A"), "run_1", 1, (step("closed"),))
        assert [await log.fork(fork), await log.fork(fork)] == [5, 5]
        row = await log.run("run_2")
        assert (row.status, row.position, row.epoch, row.owner) == ("queued", 1, 0, None)
        assert [one.key or one.kind for one in await log.read_run("run_2")] == [
            *("run_started", "a", "b", "forked", "closed"),
        ]
        assert {one.run_id for one in await log.read_session("ses_2")} == {"run_2"}
        new = await claimed(log, "run_2")
        assert await log.append(new, [step("c", "another")]) == 6, "keys are the run's own"
        assert [one.seq for one in await log.read_run("run_2", 4)] == [5, 6]
        deeper = Fork("ses_3", "ses_2", 6, None, NewRun("run_3", "ses_3", "A"), "run_2", 1, (CANCELLED,))
        assert await log.fork(deeper) == 8
        assert [one.run_id for one in await log.read_run("run_3")] == ["run_3"] * 8
        assert (await log.run("run_3")).status == "cancelled"
        begun = await begin(log, "run_4", "ses_3")
        assert begun.token is not None, "a run that was cut off has no turn"
        shallow = Fork("ses_5", "ses_3", 2, None, NewRun("run_5", "ses_5", "A"), "run_3", 1)
        assert await log.fork(shallow) == 3
        assert [one.key or one.kind for one in await log.read_run("run_5")] == ["run_started", "a", "forked"]
        await log.append(token, [DONE])
        await log.append(new, [DONE])
        assert [one.seq for one in await log.read_run("run_1")] == [1, 2, 3, 4, 5]
