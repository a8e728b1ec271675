"""A network whose conversations are kept in an application's own tables, by a history adapter of three methods.

    python examples/history.py                 # two runs of one conversation, and what the tables have
    python examples/history.py threads.db      # in threads.db; run it again, and the conversation goes on

Kill it where you like, and start it again with the same file: what was asked is answered first, and each message is in
the tables once. It needs no key: without OPENAI_API_KEY a model that only quotes answers.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import tempfile
import uuid
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from perdure import Agent, AgentResult, HistoryAdapter, HistoryContext, Network, Runtime, State, TextMessage, sequence

TABLES = """
CREATE TABLE IF NOT EXISTS thread (id TEXT PRIMARY KEY, user_id TEXT, title TEXT);
CREATE TABLE IF NOT EXISTS message (id TEXT PRIMARY KEY, thread_id TEXT, role TEXT, agent TEXT, content TEXT,
    created_at REAL);
"""


class Tables(HistoryAdapter):
    """Keeps conversations in two tables; its methods are sync, so each is called in a thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(self.connect()) as db:
            db.executescript(TABLES)

    def connect(self) -> sqlite3.Connection:
        """Open the tables."""
        return sqlite3.connect(self.path)

    def create_thread(self, ctx: HistoryContext) -> str:
        """Make a new conversation; the first fifty characters are its title."""
        id = str(uuid.uuid4())
        with closing(self.connect()) as db, db:
            db.execute("INSERT INTO thread VALUES (?, ?, ?)", (id, ctx.state.data.user_id, ctx.input[:50]))
        return id

    def get(self, ctx: HistoryContext) -> list[AgentResult | TextMessage]:
        """Give what was said before."""
        with closing(self.connect()) as db:
            rows = db.execute(
                "SELECT role, agent, content FROM message WHERE thread_id = ? ORDER BY rowid",
                (ctx.thread_id,),
            ).fetchall()
        past: list[AgentResult | TextMessage] = []
        for role, agent, content in rows:
            said = TextMessage(role, content)
            past.append(said if role == "user" else AgentResult(agent, (said,)))
        return past

    def append_results(self, ctx: HistoryContext) -> None:
        """Store what the user has asked, once, and what agents have answered; a repetition is passed over."""
        rows: list[tuple[str, str, str, str | None, str, float]] = []
        asked = ctx.user_message
        if asked is not None:
            rows.append((asked.id, ctx.thread_id, "user", None, asked.content, asked.created_at))
        for one in ctx.new_results:
            text = "\n".join(part.text for part in one.messages if isinstance(part, TextMessage))
            rows.append((one.id, ctx.thread_id, "assistant", one.agent_name, text, one.created_at))
        with closing(self.connect()) as db, db:
            db.executemany("INSERT OR IGNORE INTO message VALUES (?, ?, ?, ?, ?, ?)", rows)


@dataclass
class User:
    """The state of a run."""

    user_id: str = ""


async def main(path: Path) -> None:
    """Ask twice in one conversation, and show what the tables have."""
    tables = Tables(path)
    researcher: Agent[str, object] = Agent("researcher", description="Searches for information")
    writer: Agent[str, object] = Agent("writer", description="Writes comprehensive responses")
    assistant = Network(
        "Research Assistant",
        agents=[researcher, writer],
        router=sequence(researcher, writer),
        state=User,
        model="openai:gpt-5-mini" if "OPENAI_API_KEY" in os.environ else "offline",
        history=tables,
    )
    with closing(tables.connect()) as db:
        known = db.execute("SELECT id FROM thread").fetchone()
    thread = known[0] if known else None
    async with Runtime(f"sqlite:///{path}-runs", [assistant]) as runtime:
        for question in ("Tell me about quantum computing", "And what is a qubit?"):
            result = await runtime.run(assistant, question, state=State(User("user-123"), thread_id=thread))
            thread = result.session_id  # without a thread_id one was created
    with closing(tables.connect()) as db:
        print(db.execute("SELECT user_id, title FROM thread").fetchall())
        for role, agent, content in db.execute("SELECT role, agent, content FROM message ORDER BY rowid"):
            print(f"{agent or role}: {content.splitlines()[0][:60]}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(main(Path(sys.argv[1]).absolute()))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder) / "threads.db"))
