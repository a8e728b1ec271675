"""Searching what was said: each hit where it is, and nothing of anybody else's."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import Agent, AgentResult, DefinitionError, Hooks, Runtime, SearchHit, TextMessage, UnknownName, tool
from perdure.db.database import Sql
from perdure.db.sqlite import SqliteDatabase
from perdure.log import search as searching
from perdure.log.words import SHOWN, fold, read_query, snippet
from perdure.testing import FunctionModel, ScriptedModel, call, say
from tests.runtime.desk import QUICK

echo = Agent("Echo", model=FunctionModel(lambda request: say(f"You said: {request.messages[-1].text}")))


def opened(url: str, *definitions: Any) -> Runtime:
    return Runtime(url, definitions or [echo], timing=QUICK)


async def found(rt: Any, text: str, **options: Any) -> list[tuple[str, str]]:
    return sorted((one.session_id, one.role) for one in await rt.search(text, **options))


async def test_a_hit_says_where_who_and_what(url: str):
    @tool(effect="pure")
    async def look(order: str) -> dict[str, str]:
        """Look."""
        return {"order": order, "state": "shipped to Reykjavík"}

    clerk = Agent("Clerk", tools=[look], model=ScriptedModel(call("look", order="A-77"), say("It is on its way.")))
    async with opened(url, clerk) as rt:
        run = await rt.run(clerk, "Where is the Order of mine?", session_id="s1", user_id="ada")
        [hit] = await rt.search("ORDER mine")
        records = {one.seq: one for one in await rt.session("s1").records()}
        assert hit == SearchHit("s1", 1, run.run_id, "user", None, hit.snippet, hit.marks, hit.score, hit.at)
        assert hit.marked() == "Where is the [Order] of [mine]?"
        assert (hit.at, hit.score > 0) == (records[1].created_at, True)
        [hit] = await rt.search("reykjavik")
        assert (hit.role, hit.agent, records[hit.seq].kind) == ("tool", "Clerk", "tool")
        assert "[Reykjavík]" in hit.marked()
        [hit] = await rt.search("way")
        assert (hit.role, hit.agent, records[hit.seq].kind) == ("assistant", "Clerk", "inference")


async def test_all_words_are_there_and_a_phrase_as_it_stands(url: str):
    async with opened(url) as rt:
        for n, text in enumerate(
            ["refunded twice in May", "the refund was paid once", "May I ask twice?", "catalogue"]
        ):
            await rt.run(echo, text, session_id=f"s{n}")
        assert await found(rt, "refund") == [(f"s{n}", role) for n in (0, 1) for role in ("assistant", "user")]
        assert await found(rt, "twice may") == [(f"s{n}", role) for n in (0, 2) for role in ("assistant", "user")]
        assert await found(rt, '"in may"') == [("s0", "assistant"), ("s0", "user")]
        assert await found(rt, '"may twice"') == []
        assert await found(rt, "ca") == []  # too short to stand for a longer word
        assert await found(rt, "cat lion") == []
        assert len(await rt.search("twice", limit=3)) == 3
        best = await rt.search("paid once")
        assert best == sorted(best, key=lambda one: -one.score)


async def test_nothing_crosses_containers_or_users(url: str):
    async with opened(url) as rt:
        for container in ("default", "acme"):
            for user in ("ada", "bob"):
                await rt.container(container).run(
                    echo, "the same secret", session_id=f"{user}-{container}", user_id=user
                )
        assert {one for one, _ in await found(rt, "secret")} == {"ada-default", "bob-default"}
        assert {one for one, _ in await found(rt.container("acme"), "secret", user_id="ada")} == {"ada-acme"}
        assert await found(rt.container("other"), "secret") == []
        assert await found(rt, "secret", user_id="nobody") == []
        # who speaks counts, not whose session it is
        await rt.run(echo, "said by carol", session_id="ada-default", user_id="carol")
        assert {one for one, _ in await found(rt, "carol", user_id="carol")} == {"ada-default"}
        assert await found(rt, "carol", user_id="ada") == []
        with pytest.raises(UnknownName):
            await rt.search("secret", session_id="ada-acme")


async def test_what_was_posted_is_found_and_erased_with_whoever_posted_it(url: str):
    async with opened(url) as rt:
        await rt.session.start(session_id="s")
        await rt.session("s").event("user_message", "where is quetzalcoatl", user_id="bob")
        await rt.session("s").event("agent_message", "quetzalcoatl is a bird")
        assert await found(rt, "quetzalcoatl") == [("s", "assistant"), ("s", "user")]
        assert await found(rt, "quetzalcoatl", user_id="bob") == [("s", "user")]
        assert (await rt.erase(user_id="bob")).sessions == ("s",)
        assert await rt.search("quetzalcoatl") == []
        assert (await rt.erase(user_id="bob")).sessions == ()


async def test_a_store_that_is_not_searched_has_no_index_and_one_that_is_reads_only_what_is_new(url: str):
    async with opened(url) as rt:
        await rt.run(echo, "first", session_id="s")
        assert await tables(rt) == set()
        assert await found(rt, "first") == [("s", "assistant"), ("s", "user")]
        assert {"search_texts", "search_sessions"} <= await tables(rt)
        await rt.run(echo, "second", session_id="s")
        await rt.run(echo, "first again", session_id="t")
        assert await found(rt, "second") == [("s", "assistant"), ("s", "user")]
        assert len(await rt.search("first")) == 4
        assert len(await rows(rt, "SELECT slot FROM search_texts")) == 6, "each message once"
        assert [one.status for one in await rt.runs()] == ["completed"] * 3


async def test_r18_what_is_erased_leaves_the_index_in_the_same_transaction(url: str):
    async with opened(url) as rt:
        for one in ("s", "t"):
            await rt.run(echo, "quetzalcoatl flies", session_id=one)
        assert len(await rt.search("quetzalcoatl")) == 4
        await rt.session("s").erase()
        texts = await rows(rt, "SELECT session FROM search_texts")
        assert texts == [("t",), ("t",)], "before anybody searches again"
        assert await found(rt, "quetzalcoatl") == [("t", "assistant"), ("t", "user")]
        await rt.session("t").erase()
        assert await rt.search("quetzalcoatl") == []
        await rt.run(echo, "it comes back", session_id="s")
        assert await found(rt, "comes") == [("s", "assistant"), ("s", "user")]


async def test_r18_no_erased_word_is_left_in_the_pages_of_the_index(tmp_path: Path):
    async with opened(f"sqlite:///{tmp_path}/desk.db") as rt:
        for n in range(5):
            await rt.run(echo, f"quetzalcoatl {n} flies", session_id=f"s{n}")
            await rt.search("flies")  # so that the index has several segments
        await rt.run(echo, "a bird flies", session_id="other")
        await rt.search("flies")
        for n in range(5):
            await rt.session(f"s{n}").erase()
        files = [one for one in tmp_path.iterdir() if one.is_file()]
        assert not any(b"quetzalc" in one.read_bytes() or b"uetzalcoatl" in one.read_bytes() for one in files)
        terms = await words_in_the_index(rt)
        assert "bird" in terms
        assert "quetzalcoatl" not in terms
        assert {one for one, _ in await found(rt, "flies")} == {"other"}


async def words_in_the_index(rt: Runtime) -> set[str]:
    def script() -> Any:
        yield Sql("CREATE VIRTUAL TABLE IF NOT EXISTS temp.words USING fts5vocab('main', 'search_words', 'instance')")
        return {row[0] for row in (yield Sql("SELECT term FROM temp.words"))}

    return await rt.db.write(script)


async def test_r18_rewound_is_not_found_and_a_fork_shows_what_it_reads(url: str):
    async with opened(url) as rt:
        await rt.run(echo, "alpha", session_id="s")
        end = len(await rt.session("s").records())
        await rt.run(echo, "beta", session_id="s")
        fork = await rt.session("s").fork()
        await rt.run(echo, "gamma", session_id=fork.id)
        assert {one for one, _ in await found(rt, "beta")} == {"s"}, "once, where it was said"
        assert {one for one, _ in await found(rt, "beta", session_id=fork.id)} == {fork.id}
        assert {one for one, _ in await found(rt, "gamma", session_id=fork.id)} == {fork.id}
        assert await found(rt, "gamma", session_id="s") == []
        back = await rt.session("s").rewind(end)
        for session in (None, "s"):
            assert await found(rt, "beta", session_id=session) == []
            assert {one for one, _ in await found(rt, "alpha", session_id=session)} == {"s"}
        assert {one for one, _ in await found(rt, "beta", session_id=fork.id)} == {fork.id}
        await rt.session("s").rewind(back - 1)  # takes it back
        for session in (None, "s"):
            assert {one for one, _ in await found(rt, "beta", session_id=session)} == {"s"}
        await rt.session("s").erase()
        assert await rt.search("alpha") == await rt.search("beta") == await rt.search("gamma") == []


async def test_what_a_finish_hook_has_changed_is_found_as_it_was_changed(url: str):
    def hush(_: Any, result: AgentResult) -> AgentResult:
        return AgentResult(result.agent_name, (TextMessage("assistant", "a censored answer"),))

    spy = Agent("Spy", model=ScriptedModel(say("the codeword is mandragora")), hooks=Hooks(on_finish=hush))
    async with opened(url, spy) as rt:
        await rt.run(spy, "What is it?", session_id="s")
        assert await found(rt, "mandragora") == []
        assert await found(rt, "censored") == [("s", "assistant")]


async def test_many_search_while_others_write_and_each_sees_what_was_there(url: str):
    async with opened(url) as rt, opened(url) as other:

        async def talk(n: int) -> None:
            for k in range(4):
                await rt.run(echo, f"word{n}x{k}", session_id=f"s{n}")
                seen = await (rt, other)[k % 2].search(f"word{n}x{k}")
                assert {one.session_id for one in seen} == {f"s{n}"}

        async with asyncio.TaskGroup() as group:
            for n in range(8):
                group.create_task(talk(n))
        assert len(await rows(rt, "SELECT slot FROM search_texts")) == 8 * 4 * 2


async def test_an_index_that_was_left_in_the_middle_is_finished_by_the_next_search(
    url: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(searching, "_BATCH", 3)
    async with opened(url) as rt:
        for n in range(6):
            await rt.run(echo, f"number {n}", session_id=f"s{n % 2}")
        taken = 0
        take = searching.Search._take

        def dies(self: Any, numbers: Any, *, wait: bool) -> Any:
            nonlocal taken
            taken += 1
            done = yield from take(self, numbers, wait=wait)
            if taken == 3:
                raise RuntimeError("gone")
            return done

        with monkeypatch.context() as patched:
            patched.setattr(searching.Search, "_take", dies)
            with pytest.raises(RuntimeError, match="gone"):
                await rt.search("number")
        assert len(await rt.search("number")) == 12
        assert len(await rows(rt, "SELECT slot FROM search_texts")) == 12


async def test_sizes_are_bounded(url: str):
    long = "start " + "filler " * 10_000 + "unreachable"
    async with opened(url, mute := Agent("Mute", model=FunctionModel(lambda _: say("ok")))) as rt:
        await rt.run(mute, long, session_id="s")
        [hit] = await rt.search("start")
        assert len(hit.snippet) <= SHOWN + 1
        assert await rt.search("unreachable") == []
        assert len(await rt.search(" ".join(["start"] * 50))) == 1
        for limit in (0, -1, 1001, True):
            with pytest.raises(DefinitionError, match="limit"):
                await rt.search("start", limit=limit)


async def test_an_sqlite_without_full_text_search_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read = SqliteDatabase.read

    async def without(self: Any, make: Any) -> Any:
        return False if make is searching._has_fts5 else await read(self, make)

    monkeypatch.setattr(SqliteDatabase, "read", without)
    async with opened(f"sqlite:///{tmp_path}/desk.db") as rt:
        with pytest.raises(Exception, match="built without full-text search"):
            await rt.search("anything")
        assert (await rt.run(echo, "goes on", session_id="s")).status == "completed"


_TYPED = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="\"'*():^-+{}&|!<>\\ \0aZé½ŉ", max_size=20),
    st.lists(
        st.sampled_from(["AND", "OR", "NOT", "NEAR(", "body:", "scope :", '"a', "b*", "-c", "<->", ":*", "é"])
    ).map(" ".join),
)


async def test_nothing_that_is_typed_is_a_syntax_error(url: str):
    async with opened(url) as rt:
        await rt.run(echo, "hello naïve World ½ 中文 e\u0301te", session_id="s")
        queries = list[str]()

        @settings(max_examples=150, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
        @given(_TYPED)
        def gather(text: str) -> None:
            queries.append(text)

        gather()
        for text in queries:
            assert isinstance(await rt.search(text), list), text
        for text in ("naive", "NAÏVE", "été", "ete", "中文", '"hello naive'):
            assert await rt.search(text), text


@given(st.text(max_size=400), st.text(max_size=30))
def test_marks_are_words_that_were_looked_for(body: str, typed: str):
    terms = read_query(typed)
    piece = snippet(body, terms)
    wanted = [fold(word) for one in terms for word in one.words]
    assert "\n" not in piece.text
    last = 0
    for first, end in piece.marks:
        assert last <= first < end <= len(piece.text)
        last = end
        shown = fold(piece.text[first:end].split(" ")[0])
        assert any(shown.startswith(word) for word in wanted)


async def rows(rt: Runtime, text: str) -> list[tuple[Any, ...]]:
    def script() -> Any:
        return [tuple(row) for row in (yield Sql(text))]

    return await rt.db.read(script)


async def tables(rt: Runtime) -> set[str]:
    text = "SELECT name FROM sqlite_master WHERE name LIKE 'search%'"
    if rt.db.dialect == "postgres":
        text = "SELECT table_name FROM information_schema.tables WHERE table_name LIKE 'search%'"
    return {str(row[0]) for row in await rows(rt, text)}
