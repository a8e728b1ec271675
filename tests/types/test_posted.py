"""What is posted in a session, between turns, in them, while others are queued: where it stands in the conversation."""

from hypothesis import given
from hypothesis import strategies as st

from perdure.types import records as rec
from perdure.types.messages import TextMessage, user
from perdure.types.transcript import Transcript, said_before

PLAIN = ("ask", "answer", "end", "post", "post", "note")
ACTS = st.lists(st.sampled_from([*PLAIN, "park", "go on"]), max_size=30)


class Story:
    """A session's records as a log would have them: one turn at a time, in the order in which they were asked."""

    def __init__(self) -> None:
        self.records: list[rec.Record] = []
        self.asked: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.parked: set[str] = set()
        self.posted: list[int] = []
        self.said: set[str] = set()

    def write(self, run: str, payload: rec.Payload, key: str | None = None) -> int:
        seq = len(self.records) + 1
        self.records.append(rec.Record(seq, run, "s", key, payload, 0.0))
        return seq

    @property
    def turn(self) -> str | None:
        """Whose turn it is: a run that is parked has left its own to the next."""
        return next((id for id in self.asked if id not in self.ended and id not in self.parked), None)

    def act(self, act: str) -> None:
        turn = self.turn
        if act == "ask":
            id = f"run_{len(self.asked)}"
            self.asked[id] = self.write(id, rec.RunStarted("A", "agent", (user(f"q {id}"),)))
        elif act == "post":
            n = len(self.posted)
            self.posted.append(self.write("", rec.SessionEvent("user_message", f"p {n}", f"e{n}", n + 1)))
        elif act == "note":
            self.write("", rec.SessionEvent("tool_execution", "not said", "x", 1))
        elif act == "go on" and self.parked and turn is None:
            self.write(min(self.parked), rec.Claimed(2))
            self.parked.discard(min(self.parked))
        elif turn is None:
            return
        elif act == "answer" and turn not in self.said:
            self.said.add(turn)
            done = rec.InferenceDone("A", (TextMessage("assistant", f"a {turn}"),))
            self.write(turn, done, "agent/0/infer/0")
        elif act == "park":
            self.write(turn, rec.Claimed(2, parked="why"))
            self.parked.add(turn)
        elif act == "end":
            self.ended[turn] = self.write(turn, rec.RunFinished("completed", "answer"))


def folded(records: list[rec.Record]) -> list[str]:
    transcript = Transcript()
    for one in records:
        transcript.add(one)
    return [one.text for one in transcript.messages if isinstance(one, TextMessage)]


@given(ACTS)
def test_posted_messages_stand_behind_the_turns_that_were_open_and_never_in_one(acts: list[str]):
    story = Story()
    for act in acts:
        story.act(act)
    said, before = folded(story.records), []
    for n in range(len(story.records) + 1):
        now = folded(story.records[:n])
        assert now[: len(before)] == before, "what was shown stays where it is"
        before = now
    shown = [one for one in said if one.startswith("p ")]
    assert shown == [f"p {n}" for n in range(len(shown))], "in the order in which they were posted, each once"
    assert "not said" not in said
    for run in story.ended:
        whole = [f"q {run}", *([f"a {run}"] if run in story.said else [])]
        at = said.index(whole[0])
        assert said[at : at + len(whole)] == whole, "nothing stands inside of a turn"
    if story.turn is None:
        assert len(shown) == len(story.posted), "nothing is held up when no turn goes on"


@given(ACTS)
def test_what_a_run_sees_does_not_depend_on_when_one_looks(acts: list[str]):
    story = Story()
    saw: dict[str, list[str]] = {}

    def seen(run: str) -> list[str]:
        messages = said_before(story.records, run, "agent/0/infer/0")
        return [one.text for one in messages if isinstance(one, TextMessage) and not one.text.startswith("a ")]

    for act in acts:
        story.act(act)
        turn = story.turn
        if turn is not None and turn not in saw:
            saw[turn] = seen(turn)
            assert saw[turn][-1] == f"q {turn}"
            later = [n for n, seq in enumerate(story.posted) if seq > story.asked[turn]]
            assert not {f"p {n}" for n in later} & set(saw[turn]), "nobody sees what came after they were asked"
            missed = [n for n, seq in enumerate(story.posted) if seq < story.asked[turn]]
            assert {f"p {n}" for n in missed} <= set(saw[turn]), "and everybody what came before"
        if turn in saw:
            assert seen(turn) == saw[turn]
