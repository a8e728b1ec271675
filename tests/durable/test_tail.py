"""A reader's view of a session: any interleaving of what is said and what is recorded, any cut, any reconnect."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure import InvalidId
from perdure.durable.live import Feed, Live, merged
from perdure.durable.tail import Tail
from perdure.log.live import joined
from perdure.log.log import Token
from perdure.types import events as ev
from perdure.types import records as rec
from perdure.types.base import convert, decode_json, encode_json
from perdure.types.live import Cursor, Part, Place
from perdure.types.messages import ReasoningMessage, TextMessage, ToolCall, ToolCallMessage, ToolResultMessage, user
from perdure.types.project import Projector
from perdure.types.usage import Usage

RUN, SESSION = "run_1", "s"
OPENINGS = (ev.AgentStarted, ev.MessageStarted, ev.ToolStarted)
BESIDE = (ev.TextDelta, ev.ReasoningDelta, ev.ToolCallStarted, ev.ToolArgsDelta, ev.MessageReset, ev.ToolProgress)
FINISHED = rec.RunFinished("completed", "answer", output="x")


class Message:
    def __init__(self, agent: int, number: int) -> None:
        self.agent = f"A{agent}"
        self.step = f"agent/0/{agent}/infer/{number}"
        self.text = ""
        self.thought = ""
        self.calls: list[ToolCall] = []


class World:
    """A driver with its log and its table; it may die, and another one goes on."""

    def __init__(self) -> None:
        self.records: list[rec.Record] = []
        self.table: list[Part] = []
        self.held: list[tuple[str | None, rec.Payload]] = []
        self.live = Live(lambda: None)
        self.epoch = 0
        self.open: dict[int, Message] = {}
        self.counts = [0, 0]
        self.begun: list[set[int]] = [set(), set()]
        self.tools: dict[str, ToolCall] = {}
        self.waiting: dict[str, ToolCall] = {}
        self.over = False
        self.take_over()
        self.commit(None, rec.RunStarted("Net", "network", (user("hi"),)))

    # -- what the driver does ------------------------------------------------------------------------------------------

    def take_over(self) -> None:
        self.epoch += 1
        self.held = []
        self.table = []
        self.open = {}
        self.counts = [0, 0]
        self.waiting = {}
        self.tools = {}
        for one in self.records:
            self.count(one.key or getattr(one.payload, "step", ""), one.payload)
        self.projector = Projector(RUN, SESSION)
        self.feed = Feed(self.live, Token(RUN, SESSION, self.epoch, "n"), len(self.records))
        for one in self.records:
            self.emit(self.projector.record(one))
        self.feed.begin()
        if self.records:
            self.commit(None, rec.Claimed(self.epoch, True))

    def count(self, step: str, payload: rec.Payload) -> None:
        """Know what is closed, and what is to be done."""
        if isinstance(payload, (rec.InferenceDone, rec.StepFailed)):
            self.counts[int(step.split("/")[2])] += 1
        if isinstance(payload, rec.InferenceDone):
            calls = [call for one in payload.messages if isinstance(one, ToolCallMessage) for call in one.tools]
            self.waiting |= {f"{step}/tool/{n}": call for n, call in enumerate(calls)}
        elif isinstance(payload, rec.ToolDone):
            self.waiting.pop(step, None)

    def emit(self, events: Sequence[ev.AnyEvent]) -> None:
        for one in events:
            self.feed.take(one)

    def hold(self, key: str | None, payload: rec.Payload) -> None:
        self.held.append((key, payload))
        self.emit(self.projector.record(rec.Record(len(self.records) + 1, RUN, SESSION, key, payload, 0.0)))

    def flush(self) -> None:
        closed = {key for key, _ in self.held}
        for key, payload in self.held:
            self.records.append(rec.Record(len(self.records) + 1, RUN, SESSION, key, payload, 0.0))
        self.held = []
        self.table = [one for one in self.table if one.step not in closed]
        self.feed.wrote(len(self.records))

    def commit(self, key: str | None, payload: rec.Payload) -> None:
        self.hold(key, payload)
        self.flush()

    def say(self, one: Message, kind: type, **fields: Any) -> None:
        at = {"run_id": RUN, "session_id": SESSION, "agent": one.agent, "step": one.step}
        self.emit([kind(message_id=self.projector.message_id(one.step), **at, **fields)])

    def do(self, what: str, n: int) -> None:
        """Do one thing, if it can be done now."""
        one = self.open.get(n % 2)
        if self.over:
            return
        if what == "ask" and one is None:
            self.flush()
            one = self.open[n % 2] = Message(n % 2, self.counts[n % 2])
            self.begun[n % 2].add(self.counts[n % 2])
            self.emit(self.projector.begin_message(one.step, one.agent))
        elif what == "text" and one is not None:
            text = "abcdefgh"[: n + 1]
            one.text += text
            self.say(one, ev.TextDelta, text=text)
        elif what == "think" and one is not None and not one.text:
            one.thought += "hm"
            self.say(one, ev.ReasoningDelta, text="hm")
        elif what == "call" and one is not None:
            id = f"c{len(one.calls)}/{one.step}"
            one.calls.append(ToolCall(id, "look", {}))
            self.say(one, ev.ToolCallStarted, tool="look", call_id=id)
        elif what == "reset" and one is not None:
            one.text, one.thought, one.calls = "", "", []
            self.say(one, ev.MessageReset, reason="again")
            if n % 3:
                self.commit(None, rec.AttemptFailed(one.step, 1, rec.ErrorInfo("E", "again"), 0.0))
        elif what in ("done", "changed", "dropped", "cut") and one is not None:
            self.finish(self.open.pop(n % 2), what)
        elif what == "fail" and one is not None:
            del self.open[n % 2]
            failure = rec.StepFailed(one.step, rec.ErrorInfo("E", "no"))
            self.commit(None, failure)
            self.count(one.step, failure)
        elif what == "tool" and self.waiting:
            self.flush()
            key, call = self.waiting.popitem()
            self.tools[key] = call
            self.emit(self.projector.begin_tool(key, "A", call.name, call.id, call.input))
        elif what == "progress" and self.tools:
            key, call = [*self.tools.items()][-1]
            self.emit([ev.ToolProgress(tool="look", call_id=call.id, data=n, step=key, run_id=RUN, session_id=SESSION)])
        elif what == "result" and self.tools:
            key, call = self.tools.popitem()
            self.hold(key, rec.ToolDone("A", ToolResultMessage(call, {"data": n})))
        elif what == "commit":
            self.flush()
        elif what == "publish":
            parts = self.feed.unsent()
            self.feed.sent(parts)
            self.table += [convert(decode_json(encode_json(one)), Part) for one in parts]
        elif what == "die":
            self.take_over()
        elif what == "end":
            self.end()

    def finish(self, one: Message, how: str) -> None:
        messages: list[Any] = [ReasoningMessage(one.thought)] if one.thought else []
        text = f"other {one.text}" if how == "changed" else one.text
        messages += [TextMessage("assistant", text)] if text else []
        if one.calls and how not in ("cut", "dropped"):
            messages.append(ToolCallMessage(tuple(one.calls)))
        usage = Usage(model_calls=1)
        done = rec.InferenceDone(one.agent, tuple(messages), usage=usage, interrupted=how == "cut")
        self.hold(one.step, done)
        self.count(one.step, done)

    def end(self) -> None:
        """Close by a record what was begun, in this attempt or another one, and finish."""
        for n in range(2):
            if n in self.open or self.counts[n] in self.begun[n]:
                self.do("ask", n)
                self.do("cut", n)
        for key, call in (self.waiting | self.tools).items():
            self.hold(key, rec.ToolDone("A", ToolResultMessage(call, {"data": None}), "not_run"))
        self.flush()
        self.over = True
        self.commit(None, FINISHED)

    # -- what a reader can take ----------------------------------------------------------------------------------------

    def said(self, places: Sequence[tuple[str, Place]], here: bool) -> list[Part]:
        if here:
            return self.feed.parts(places)
        known = {(run, one.step, one.epoch): one.n for run, one in places}
        rows = sorted(self.table, key=lambda one: (one.step, one.epoch, one.end))
        return joined([one for one in rows if one.end > known.get((one.run_id, one.step, one.epoch), 0)])


class Client:
    """Whoever is shown the events; it may lose its connection at any event."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: list[ev.AnyEvent] = []
        self.open: dict[str, list[ev.AnyEvent]] = {}
        self.early: tuple[list[Part], bool] | None = None
        self.tail = Tail(SESSION, Cursor())

    def connect(self) -> None:
        self.early = None
        self.tail = Tail(SESSION, Cursor.read(self.seen[-1].cursor if self.seen else None))

    def fetch(self, here: bool) -> None:
        """Take what is said now, before the records are read."""
        self.early = (self.world.said(self.tail.places(), here), here)

    def pull(self, here: bool, most: int | None = None, page: int | None = None) -> None:
        """Read what there is, or so many records of it; only so many events arrive before the connection is lost."""
        got: list[ev.AnyEvent] = []
        early, self.early = self.early, None
        for record in self.world.records[self.tail.seq :][:page]:
            self.recall(record.run_id, record.kind == "run_started")
            got += self.tail.record(record)
        for part in early[0] if early is not None else self.world.said(self.tail.places(), here):
            if part.base <= self.tail.seq:
                self.recall(part.run_id)
            got += self.tail.live(part)
        for event in got if most is None else got[:most]:
            self.take(event)
        if most is not None and most < len(got):
            self.connect()

    def recall(self, run_id: str, begins: bool = False) -> None:
        if self.tail.lacks(run_id) and not begins:
            self.tail.recall(run_id, [one for one in self.world.records if one.run_id == run_id])

    def take(self, event: ev.AnyEvent) -> None:
        assert event.cursor
        assert str(Cursor.read(event.cursor)) == event.cursor
        self.seen.append(event)
        key = f"{type(event).__name__.removesuffix('Started').removesuffix('Finished')} {event.step}"
        if isinstance(event, OPENINGS):
            assert key not in self.open, "opened twice"
            before = f"Message {str(event.step).rpartition('/')[0]}/"
            assert not [one for one in self.open if key.startswith(before) and one.startswith(before)], "out of order"
            self.open[key] = []
        elif isinstance(event, BESIDE):
            place = "Tool" if isinstance(event, ev.ToolProgress) else "Message"
            said = self.open[f"{place} {event.step}"]
            if isinstance(event, ev.MessageReset):
                said.clear()
            else:
                said.append(event)
        elif isinstance(event, ev.MessageFinished):
            said = self.open.pop(key)
            if event.messages or not event.interrupted:
                self.check(event, said)
        elif isinstance(event, (ev.ToolFinished, ev.AgentFinished)):
            del self.open[key]

    def check(self, event: ev.MessageFinished, said: list[ev.AnyEvent]) -> None:
        """The pieces since the last reset are the message."""
        whole = event.messages
        texts = "".join(one.text for one in said if isinstance(one, ev.TextDelta))
        thoughts = "".join(one.text for one in said if isinstance(one, ev.ReasoningDelta))
        calls = [one.call_id for one in said if isinstance(one, ev.ToolCallStarted)]
        assert texts == "".join(one.text for one in whole if isinstance(one, TextMessage))
        assert thoughts == "".join(one.content for one in whole if isinstance(one, ReasoningMessage))
        if not event.interrupted:
            assert calls == [call.id for one in whole if isinstance(one, ToolCallMessage) for call in one.tools]


def told(events: Sequence[ev.AnyEvent]) -> list[ev.AnyEvent]:
    """What records tell, whatever was shown before them."""
    plain = [one for one in events if one.seq is not None and not isinstance(one, BESIDE)]
    return [msgspec.structs.replace(one, cursor="") for one in plain]


def failed(script: Sequence[tuple[str, int]]) -> bool:
    """Whether an answer failed for good: of that only who was there was shown the beginning."""
    return any(what == "fail" for what, _ in script)


def opened(events: Sequence[ev.AnyEvent]) -> list[tuple[str, str | None]]:
    return sorted((type(one).__name__, one.step) for one in events if isinstance(one, OPENINGS))


DOES = ["ask", "text", "text", "think", "call", "reset", "done", "changed", "cut", "fail", "tool", "progress", "result"]
DOES += ["dropped", "commit", "publish", "die", "end", "ask", "text", "done", "tool", "publish"]
READS = ["pull", "page", "fetch", "lose", "connect"]
SCRIPTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(DOES), st.integers(0, 7)), st.tuples(st.sampled_from(READS), st.integers(0, 7))
    ),
    max_size=60,
)


@given(SCRIPTS)
@settings(max_examples=400)
def test_r19_any_reader_is_shown_all_of_it_once(script: list[tuple[str, int]]):
    world = World()
    client = Client(world)
    for what, n in script:
        here = bool(n % 2)
        if what == "pull":
            client.pull(here)
        elif what == "page":
            client.pull(here, page=n // 2)
        elif what == "lose":
            client.pull(here, n)
        elif what == "fetch":
            client.fetch(here)
        elif what == "connect":
            client.connect()
        else:
            world.do(what, n)
    world.flush()
    if not world.over:
        world.end()
    client.pull(True)

    late = Client(world)
    late.pull(False)
    assert not client.open
    assert not late.open
    assert told(client.seen) == told(late.seen)
    assert sorted({*opened(client.seen), *opened(late.seen)}) == opened(client.seen)
    if not failed(script):
        assert opened(client.seen) == opened(late.seen)


@given(SCRIPTS)
@settings(max_examples=150)
def test_r19_going_on_from_every_cursor_gives_just_the_rest(script: list[tuple[str, int]]):
    world = World()
    client = Client(world)
    for what, n in script:
        world.do(what, n)
        client.pull(here=bool(n % 3))
    world.flush()
    if not world.over:
        world.end()
    client.pull(True)
    for place in range(len(client.seen)):
        again = Client(world)
        for event in client.seen[:place]:
            again.take(event)
        again.connect()
        again.pull(False)
        assert not again.open
        assert told(again.seen) == told(client.seen)
        if not failed(script):
            assert opened(again.seen) == opened(client.seen)


# -- by hand -----------------------------------------------------------------------------------------------------------


def started(*does: tuple[str, int]) -> tuple[World, Client]:
    world = World()
    for what, n in does:
        world.do(what, n)
    client = Client(world)
    client.pull(True)
    return world, client


def names(events: Sequence[ev.AnyEvent]) -> list[str]:
    return [type(one).__name__ + (f" {one.text}" if isinstance(one, ev.TextDelta) else "") for one in events]


def after(client: Client, place: int) -> list[str]:
    return names(client.seen[place:])


def test_a_reader_in_the_middle_gets_the_text_so_far_and_then_what_comes():
    world, client = started(("ask", 0), ("text", 2), ("text", 4))
    assert names(client.seen) == ["RunStarted", "AgentStarted", "MessageStarted", "TextDelta abc", "TextDelta abcde"]
    world.do("text", 0)
    client.pull(True)
    assert after(client, 5) == ["TextDelta a"]
    assert client.seen[-1].cursor == "1@1~agent/0/0/infer/0.1.10"


def test_a_reader_elsewhere_is_told_the_rest_by_the_record():
    world, _ = started(("ask", 0), ("text", 2), ("publish", 0))
    far = Client(world)
    far.pull(False)
    world.do("text", 4)
    world.do("done", 0)
    world.do("commit", 0)
    far.pull(False)
    assert names(far.seen[3:]) == ["TextDelta abc", "TextDelta abcde", "MessageFinished", "UsageUpdated"]
    assert [one.cursor for one in far.seen[4:]] == ["2-2@1~agent/0/0/infer/0.1.4", "2-1@1~agent/0/0/infer/0.1.4", "2"]


def test_r19_a_reader_who_comes_back_after_the_end_gets_a_reset_and_the_whole():
    world, client = started(("ask", 0), ("text", 2))
    world.do("done", 0)
    world.do("commit", 0)
    client.connect()
    client.pull(False)
    assert after(client, 4) == ["MessageReset", "TextDelta abc", "MessageFinished", "UsageUpdated"]


def test_a_reader_who_comes_back_in_time_gets_only_what_is_new():
    world, client = started(("ask", 0), ("text", 2))
    world.do("text", 4)
    world.do("publish", 0)
    client.connect()
    client.pull(False)
    assert after(client, 4) == ["TextDelta abcde"], "the row holds both pieces, and only the second is new"


def test_r19_a_takeover_resets_an_open_answer_once():
    world, client = started(("ask", 0), ("text", 2))
    world.do("die", 0)
    client.pull(True)
    world.do("ask", 0)
    world.do("text", 4)
    client.pull(True)
    world.do("done", 0)
    world.do("commit", 0)
    client.pull(True)
    rest = ["MessageReset", "TextDelta abcde", "MessageFinished", "UsageUpdated"]
    assert after(client, 4) == rest
    assert client.seen[4].seq == 2, "it is the claim's, so whoever reads again gets it again"


def test_what_a_dead_owner_said_is_not_shown_after_the_claim():
    world, client = started(("ask", 0), ("text", 2))
    stale = world.said((), here=True)
    world.do("die", 0)
    client.pull(True)
    place = len(client.seen)
    for part in stale:
        assert client.tail.live(part) == []
    assert place == len(client.seen)


def test_an_answer_that_a_hook_has_changed_is_reset_and_told_whole():
    world, client = started(("ask", 0), ("text", 2))
    world.do("changed", 0)
    world.do("commit", 0)
    client.pull(True)
    assert after(client, 4) == ["MessageReset", "TextDelta other abc", "MessageFinished", "UsageUpdated"]


def test_a_call_that_a_hook_has_removed_is_reset():
    world, client = started(("ask", 0), ("text", 2), ("call", 0))
    world.do("dropped", 0)
    world.do("commit", 0)
    client.pull(True)
    assert after(client, 5) == ["MessageReset", "TextDelta abc", "MessageFinished", "UsageUpdated"]


def test_nothing_is_shown_before_the_records_that_it_came_after():
    world, client = started(("ask", 0), ("text", 2))
    for what in ("done", "commit", "ask"):
        world.do(what, 0)
    parts = world.said((), here=True)
    assert [client.tail.live(one) for one in parts] == [[]]
    client.pull(True)
    assert after(client, 4) == ["MessageFinished", "UsageUpdated", "MessageStarted"]


def test_what_comes_after_its_record_is_not_shown():
    world, client = started(("ask", 0), ("text", 2))
    world.do("text", 4)
    late = world.said((), here=True)
    world.do("done", 0)
    world.do("commit", 0)
    client.pull(True)
    assert [client.tail.live(one) for one in late] == [[]]


def test_what_comes_late_of_an_attempt_that_has_failed_is_not_shown():
    world, client = started(("ask", 0), ("text", 2))
    world.do("text", 4)
    client.fetch(here=True)
    world.do("reset", 2)
    client.pull(True)
    assert after(client, 4) == ["MessageReset", "StepRetrying"]
    world.do("text", 0)
    client.pull(True)
    assert after(client, 6) == ["TextDelta a"]


def test_what_is_void_already_is_not_shown_to_who_comes_now():
    world, _ = started(("ask", 0), ("text", 2), ("publish", 0), ("reset", 0), ("text", 4), ("publish", 0))
    far = Client(world)
    far.pull(False)
    assert names(far.seen) == ["RunStarted", "AgentStarted", "MessageStarted", "TextDelta abcde"]


def test_a_record_of_no_run_is_passed():
    tail = Tail(SESSION, Cursor())
    assert not tail.lacks("")
    assert tail.record(rec.Record(1, "", SESSION, None, rec.Compacted(()), 0.0)) == []
    started = rec.Record(2, RUN, SESSION, None, rec.RunStarted("Net", "network", ()), 0.0)
    assert [one.cursor for one in tail.record(started)] == ["2"]


def test_neighbouring_pieces_are_joined():
    deltas = [ev.TextDelta(text="a"), ev.TextDelta(text="b"), ev.ReasoningDelta(text="c"), ev.TextDelta(text="d")]
    args = [ev.ToolArgsDelta(text="1", call_id="x"), ev.ToolArgsDelta(text="2", call_id="y")]
    assert merged([*deltas, *args]) == [ev.TextDelta(text="ab"), *deltas[2:], *args]
    assert merged([]) == []


@pytest.mark.parametrize(
    "cursor",
    [
        Cursor(),
        Cursor(12),
        Cursor(12, 3),
        Cursor(12, 0, 4, (Place("agent/0/infer/2", 1, 17),)),
        Cursor(12, 2, 4, (Place("agent/0/infer/2", 1, 17), Place("agent/0/1/infer/0/tool/3", 2, 1))),
    ],
)
def test_a_cursor_is_read_as_it_was_written(cursor: Cursor):
    assert Cursor.read(str(cursor)) == cursor
    assert Cursor.read(cursor) is cursor


@pytest.mark.parametrize("given", ["", "x", "-1", "1-", "1@2", "1@2~a", "1~a.1.1", " 1", "1\n", True, -1, "9" * 30])
def test_a_bad_cursor_says_what_it_must_be(given: Any):
    with pytest.raises(InvalidId, match="is no cursor"):
        Cursor.read(given)


def test_a_cursor_of_another_session_is_refused():
    world, _ = started(("ask", 0))
    tail = Tail(SESSION, Cursor(1, 5))
    with pytest.raises(InvalidId, match="no cursor of the session"):
        tail.record(world.records[0])
