"""Full-text search over what was said: an index beside the log, made when somebody searches for the first time.

The index is a view: whatever is in it was read from records, and each session's position in it is kept. A search first
reads what its container has got since; an append knows nothing of it. A session is locked while it is read, as it is
while it is erased, so that nothing erased can come back. The records of child runs are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, cast

import msgspec

from perdure.db.database import Database, Script, Sql, StoreError
from perdure.db.migrate import Migration, add_part, has_part
from perdure.log.parts import parts_of
from perdure.log.schema import ROOM
from perdure.log.sql import SqlLog
from perdure.log.words import Term, clean, fold, folded, read_query, snippet
from perdure.types.base import Base, encode_json
from perdure.types.errors import DefinitionError, UnknownName
from perdure.types.messages import Message, TextMessage, ToolResultMessage
from perdure.types.records import (
    AgentDone,
    InferenceDone,
    Payload,
    Rewound,
    RunStarted,
    SessionEvent,
    ToolDone,
    decode_payload,
)
from perdure.types.visible import hidden_by

LIMIT = 20
"""How many hits there are at most unless asked for otherwise."""
MOST = 1000
INDEXED = 32_000
"""How many characters of one message are searched."""

_BATCH = 200
_SESSIONS = 100
_MERGED = 200
_KINDS = "'run_started', 'inference', 'tool', 'agent_finished', 'rewound', 'event'"
_UNMERGED = "search:unmerged"

Role = Literal["user", "assistant", "tool"]


class SearchHit(Base):
    """A message in which everything was found that was looked for.

    `seq` is its record, `agent` who said it or called the tool, `at` seconds since the epoch. `snippet` is the piece of
    it that is shown, `marks` where in that piece the words are. A higher `score` is a better hit of the same search.
    """

    session_id: str
    seq: int
    run_id: str
    role: Role
    agent: str | None
    snippet: str
    marks: tuple[tuple[int, int], ...]
    score: float
    at: float

    def marked(self, before: str = "[", after: str = "]") -> str:
        """The snippet with something before and after each word that was found."""
        shown, at = "", 0
        for first, end in self.marks:
            shown += f"{self.snippet[at:first]}{before}{self.snippet[first:end]}{after}"
            at = end
        return shown + self.snippet[at:]


def search_part(db: Database) -> Migration:
    """The tables of the index; `search_texts` has the texts, and beside it is what finds words in them."""
    common = (
        """CREATE TABLE search_texts (
            number {serial},
            slot {int} NOT NULL,
            container TEXT NOT NULL,
            session TEXT NOT NULL,
            run TEXT NOT NULL,
            place TEXT NOT NULL,
            role TEXT NOT NULL,
            agent TEXT,
            user_id TEXT,
            at {real} NOT NULL,
            hidden {int} NOT NULL DEFAULT 0,
            scope TEXT NOT NULL,
            body TEXT NOT NULL
        )""",
        "CREATE INDEX search_texts_slot ON search_texts (slot)",
        "CREATE TABLE search_sessions (number {int} PRIMARY KEY, upto {int} NOT NULL)",
    )
    if db.dialect == "postgres":
        own = (
            "ALTER TABLE search_texts ADD COLUMN words TSVECTOR NOT NULL",
            "CREATE INDEX search_texts_words ON search_texts USING gin (words)",
        )
    else:
        gone = "INSERT INTO search_words (search_words, rowid, scope, body) VALUES ('delete', old.number, old.scope, "
        own = (
            "CREATE VIRTUAL TABLE search_words USING fts5 (scope, body, content='search_texts', "
            "content_rowid='number', tokenize='unicode61 remove_diacritics 2')",
            "CREATE TRIGGER search_texts_in AFTER INSERT ON search_texts BEGIN INSERT INTO search_words (rowid, scope, "
            "body) VALUES (new.number, new.scope, new.body); END",
            f"CREATE TRIGGER search_texts_out AFTER DELETE ON search_texts BEGIN {gone}old.body); END",
        )
    return Migration("search", 1, (*common, *own))


class _Said(NamedTuple):
    """A message as it is indexed."""

    role: Role
    agent: str | None
    text: str


class Search:
    """The index of one container.

    Args:
        log: the container's log.
    """

    def __init__(self, log: SqlLog) -> None:
        self._log = log
        self._db = log.db
        self._part = search_part(log.db)
        self._there = False

    async def find(
        self, text: str, *, user_id: str | None = None, session_id: str | None = None, limit: int = LIMIT
    ) -> list[SearchHit]:
        """Find what was said, the best hits first.

        Args:
            text: words that must all be in a message; a phrase in double quotes stands there as it is.
            user_id: only what was said in runs of this user, or to them.
            session_id: only what this session shows; of a fork that is what it has from its base, too.
            limit: at most so many hits.

        Raises:
            UnknownName: there is no such session.
            DefinitionError: the limit is none.
            StoreError: this SQLite has no full-text search.
        """
        if isinstance(limit, bool) or not 0 < limit <= MOST:
            raise DefinitionError(f"search(limit={limit!r}): give a number from 1 to {MOST}.")
        terms = read_query(text)
        await self._make()
        await self._read()
        if not terms:
            return []
        return await self._db.read(lambda: self._find(terms, user_id, session_id, limit))

    async def _make(self) -> None:
        if self._there:
            return
        if not await self._db.read(lambda: has_part(self._part)):
            if self._db.dialect == "sqlite" and not await self._db.read(_has_fts5):
                raise StoreError(
                    "This Python's SQLite was built without full-text search (FTS5), so nothing can be searched. Use "
                    "a Python whose sqlite3 has it, as those of Debian, python.org and uv do, or PostgreSQL."
                )
            await add_part(self._db, self._part)
        self._there = True

    # -- reading records into the index ------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read what the container's sessions have got since they were read last."""
        while behind := await self._db.read(self._behind):
            if not await self._db.write(lambda: self._take(behind, wait=False)):
                for one in behind:  # others write to all of them right now
                    await self._db.write(lambda one=one: self._take([one], wait=True))

    def _behind(self) -> Script[list[int]]:
        """Sessions that have records which the index does not."""
        rows = yield Sql(
            "SELECT s.number FROM sessions s LEFT JOIN search_sessions p ON p.number = s.number WHERE s.container = ? "
            f"AND s.parent IS NULL AND (SELECT MAX(slot) FROM records WHERE slot > s.number * {ROOM} AND "
            f"slot < (s.number + 1) * {ROOM}) > COALESCE(p.upto, 0) ORDER BY s.number LIMIT {_SESSIONS}",
            (self._log.container,),
        )
        return [int(row[0]) for row in rows]

    def _take(self, numbers: Sequence[int], *, wait: bool) -> Script[int]:
        """Read some records of sessions; gives how many sessions were read. Unless `wait`, locked ones are left out."""
        lock = ""
        if self._db.dialect == "postgres":
            lock = " FOR UPDATE" if wait else " FOR UPDATE SKIP LOCKED"
        marks = ", ".join("?" * len(numbers))
        sessions = yield Sql(
            f"SELECT number, id, user_id FROM sessions WHERE number IN ({marks}) ORDER BY number{lock}", (*numbers,)
        )
        room = _BATCH
        for number, id, user in sessions:
            room -= yield from self._take_session(int(number), str(id), user, room)
            if room <= 0:
                break
        return len(sessions)

    def _take_session(self, number: int, session: str, user: str | None, room: int) -> Script[int]:
        known = yield Sql("SELECT upto FROM search_sessions WHERE number = ?", (number,))
        upto = int(known[0][0]) if known else number * ROOM
        rows = yield Sql(
            f"SELECT r.slot, r.run, r.key, CASE WHEN r.kind IN ({_KINDS}) THEN COALESCE(r.payload, b.payload) END, "
            "r.created_at, u.user_id FROM records r LEFT JOIN blobs b ON r.blob = 1 AND b.slot = r.slot "
            "LEFT JOIN runs u ON u.container = r.container AND u.id = r.run "
            "WHERE r.slot > ? AND r.slot < ? ORDER BY r.slot LIMIT ?",
            (upto, (number + 1) * ROOM, room),
        )
        rewound = False
        for slot, run, key, data, at, its in rows:
            payload = _payload(data)
            rewound = rewound or isinstance(payload, Rewound)
            its = payload.user_id if isinstance(payload, SessionEvent) else its
            if isinstance(payload, AgentDone) and payload.messages is not None:  # a hook has changed what it said
                yield Sql(
                    "DELETE FROM search_texts WHERE slot > ? AND slot < ? AND run = ? AND place = ?",
                    (number * ROOM, slot, run, key),
                )
            for one in _said(payload):
                place = str(key or "").partition("/infer/")[0]
                yield self._insertion(int(slot), session, str(run), place, one, its or user, float(at))
        if rows:
            yield Sql(
                "INSERT INTO search_sessions (number, upto) VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET "
                "upto = excluded.upto",
                (number, rows[-1][0]),
                blind=True,
            )
        if rewound:
            yield from self._hide(number)
        return len(rows)

    def _insertion(
        self, slot: int, session: str, run: str, place: str, said: _Said, user: str | None, at: float
    ) -> Sql:
        container = self._log.container
        body = clean(said.text[:INDEXED])
        scope = " ".join([_token("c", container), _token("s", session), *([_token("u", user)] if user else [])])
        names = "slot, container, session, run, place, role, agent, user_id, at, scope, body"
        row: tuple[Any, ...] = (slot, container, session, run, place, said.role, said.agent, user, at, scope, body)
        marks = ", ".join("?" * len(row))
        if self._db.dialect == "postgres":
            names, marks, row = f"{names}, words", f"{marks}, to_tsvector('simple', ?)", (*row, folded(body))
        return Sql(f"INSERT INTO search_texts ({names}) VALUES ({marks})", row, blind=True)

    def _hide(self, number: int) -> Script[None]:
        """Mark what rewinds of a session have hidden, as of what was read of it."""
        inside = (number * ROOM, (number + 1) * ROOM)
        rows = yield Sql(
            "SELECT slot, payload FROM records WHERE slot > ? AND slot < ? AND kind IN ('compacted', 'rewound') "
            "AND kind = 'rewound' AND slot <= (SELECT upto FROM search_sessions WHERE number = ?) ORDER BY slot",
            (*inside, number),
        )
        yield Sql("UPDATE search_texts SET hidden = 0 WHERE slot > ? AND slot < ? AND hidden = 1", inside)
        for low, high in hidden_by([(int(slot) % ROOM, _payload(data)) for slot, data in rows]):
            yield Sql(
                "UPDATE search_texts SET hidden = 1 WHERE slot > ? AND slot < ?",
                (number * ROOM + low, number * ROOM + high),
            )

    # -- finding -----------------------------------------------------------------------------------------------------

    def _find(
        self, terms: list[Term], user_id: str | None, session_id: str | None, limit: int
    ) -> Script[list[SearchHit]]:
        container = self._log.container
        where, params = "t.container = ?", [cast("Any", container)]
        scope = [[_token("c", container)]]
        names: dict[str, dict[str, str]] = {}
        if user_id is not None:
            where, params = f"{where} AND t.user_id = ?", [*params, user_id]
            scope.append([_token("u", user_id)])
        if session_id is None:
            where = f"{where} AND t.hidden = 0"
        else:
            shown = yield from self._shown(session_id, names)
            where = f"{where} AND ({' OR '.join(['(t.slot > ? AND t.slot < ?)'] * len(shown))})"
            params += [slot for one in shown for slot in one]
            scope.append([_token("s", one) for one in names])
        score, source, query = self._matching(terms, scope)
        rows = yield Sql(
            f"SELECT t.slot, t.session, t.run, t.role, t.agent, t.body, t.at, {score} AS score FROM {source} AND "
            f"{where} ORDER BY score DESC, t.number DESC LIMIT ?",
            (query, *params, limit),
        )
        hits: list[SearchHit] = []
        for slot, session, run, role, agent, body, at, good in rows:
            piece = snippet(str(body), terms)
            run = names.get(session, {}).get(run, run)
            place = (session_id or str(session), int(slot) % ROOM, str(run), cast("Role", role), agent)
            hits.append(SearchHit(*place, piece.text, piece.marks, round(float(good), 6), float(at)))
        return hits

    def _matching(self, terms: list[Term], scope: list[list[str]]) -> tuple[str, str, str]:
        """How this database finds words: the score, from where, and what it is asked for."""
        if self._db.dialect == "postgres":
            wanted = [
                " <-> ".join(f"'{fold(word)}'{':*' if one.begins else ''}" for word in one.words if fold(word))
                for one in terms
            ]
            source = "search_texts t, to_tsquery('simple', ?) AS q WHERE t.words @@ q"
            return "ts_rank_cd(t.words, q)", source, " & ".join(f"({one})" for one in wanted if one)
        found = " AND ".join(f'body : "{" ".join(one.words)}"{" *" if one.begins else ""}' for one in terms)
        inside = " AND ".join(f"({' OR '.join(f'scope : {token}' for token in some)})" for some in scope)
        source = "search_words JOIN search_texts t ON t.number = search_words.rowid WHERE search_words MATCH ?"
        return "-bm25(search_words, 0.0, 1.0)", source, f"{inside} AND {found}"

    def _shown(self, session_id: str, names: dict[str, dict[str, str]]) -> Script[list[tuple[int, int]]]:
        """The slots (both exclusive) that a session shows, those of its bases included, without what is rewound."""
        parts = yield from parts_of(self._log.container, session_id)
        if not parts:
            raise UnknownName("session", session_id)
        rewinds: list[tuple[int, Payload | None]] = []
        for part in reversed(parts):
            names[part.session] = dict(part.names)
            rows = yield Sql(
                "SELECT seq, payload FROM records WHERE slot > ? AND slot < ? AND kind IN ('compacted', 'rewound') "
                "AND kind = 'rewound' ORDER BY slot",
                part.between(0, ROOM),
            )
            rewinds += [(int(seq), _payload(data)) for seq, data in rows]
        low, whole = 0, list[tuple[int, int]]()
        for first, end in hidden_by(rewinds):
            whole.append((low, first + 1))
            low = end - 1
        whole.append((low, ROOM))
        slots = [part.between(*one) for part in parts for one in whole]
        return [(first, end) for first, end in slots if end - first > 1] or [(0, 0)]


def forget(db: Database, slots: tuple[int, int]) -> Script[int]:
    """Take what lies between two slots out of the index, in the transaction that erases it; says how many texts."""
    if not (yield from has_part(search_part(db))):
        return 0
    rows = yield Sql("DELETE FROM search_texts WHERE slot > ? AND slot < ? RETURNING number", slots)
    if rows and db.dialect == "sqlite":
        yield Sql("INSERT INTO perdure_store VALUES (?, '1') ON CONFLICT DO NOTHING", (_UNMERGED,))
    return len(rows)


async def merge(db: Database) -> None:
    """Write the index of words anew where something was taken out of it: until then it has the words in its pages.

    This is done in many short transactions, and picked up again where it was left.
    """
    size = -_MERGED  # the first one says that all is to be written anew

    def script() -> Script[bool]:
        if not (yield Sql("SELECT 1 FROM perdure_store WHERE name = ?", (_UNMERGED,))):
            return False
        before = yield Sql("SELECT total_changes()")
        yield Sql("INSERT INTO search_words (search_words, rank) VALUES ('merge', ?)", (size,))
        after = yield Sql("SELECT total_changes()")
        if after[0][0] - before[0][0] >= 2:
            return True
        yield Sql("DELETE FROM perdure_store WHERE name = ?", (_UNMERGED,))
        return False

    while await db.write(script):
        size = _MERGED


def _has_fts5() -> Script[bool]:
    return bool((yield Sql("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'")))


def _payload(data: Any) -> Payload | None:
    """Read a payload; what cannot be read is not searched, and whoever reads the session is told."""
    if data is None:
        return None
    try:
        return decode_payload(bytes(data))
    except msgspec.MsgspecError:
        return None


def _said(payload: Payload | None) -> Iterator[_Said]:
    """What can be found of a record: what a user and agents said, and what tools gave."""
    match payload:
        case RunStarted():
            yield from _found_in(payload.messages, "user", None)
        case InferenceDone():
            yield from _found_in(payload.messages, "assistant", payload.agent)
        case AgentDone(messages=tuple() as messages):
            yield from _found_in(messages, "assistant", payload.agent)
        case ToolDone():
            yield from _found_in([payload.result], "tool", payload.agent)
        case SessionEvent(event_type="user_message", content=said) if said:
            yield _Said("user", None, said)
        case SessionEvent(event_type="agent_message", content=said) if said:
            by = payload.metadata.get("from_agent")
            yield _Said("assistant", by if isinstance(by, str) else None, said)
        case _:
            pass


def _found_in(messages: Sequence[Message], role: Role, agent: str | None) -> Iterator[_Said]:
    for one in messages:
        if isinstance(one, TextMessage) and one.text and one.role != "system":
            yield _Said(role, agent, one.text)
        elif isinstance(one, ToolResultMessage):
            given = one.content if one.is_error else one.data
            yield _Said("tool", agent, given if isinstance(given, str) else encode_json(given).decode())


def _token(kind: str, id: str) -> str:
    """A word that stands for an id in the index, so that what is not in its scope is not even looked at."""
    return kind + str(int.from_bytes(blake2b(id.encode(), digest_size=8).digest()))
