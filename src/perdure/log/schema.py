"""The log's tables.

Every table carries the container, and every id is unique within it. `sessions.turn` is the run whose turn it is, owned
or next to be claimed, and `epoch` and `nonce` are its owner's token, so that one look at the session is the fence. A
record's `slot` is its session's number and its own `seq` in one integer, so a small index has a session's records in
order, and the last one's slot is the session's head. The records themselves lie in order of commitment: sessions that
write at the same time fill the same pages. A run that is parked because its store is a copy has in `held` the status
that it will have again. What is asked of open runs again and again has small indexes of their own, for which a query
names the status as they do; runs that are over are in none of them.

A session that is a fork reads the records of its `base` up to `base_seq` as its own first ones, and has only what
follows; what the run `base_run` did there it reads as done by `fork_run`.

What is up to the record `gone` of a session was erased or removed: one with nothing behind it takes no room of a quota.
`status` is the state of a session that was started as one, with `metadata`; one that only has runs has none. `events`
counts the events that were posted in it, and `retain_context` is what was said at its end. The index of these events is
made with the first one of a store.

`woken` is the last record by which a wait of a run ended, or 1 if it only has waits; `event` the last event that was
there before the run, and `ends_at` when a run that waits has used its time. Waits are kept by the run that drives: a
child that is not `detached` is driven by its parent and waits with it; `asker` is the run that asks, `place` orders the
waits of one run. `answers` has how each wait ended (`seq` is that record's, 0 as long as the wait is not recorded), and
what came too late. `lane` names the runs of which
only so many are active at once, as `functions` says, which belong to the whole store. `live` is no part of the log:
it holds what open steps have said so far, for readers in other processes, up to the number `n`; losing it loses
nothing.
"""

from __future__ import annotations

from perdure.db.migrate import Migration

ROOM = 2**28
"""How many records a session may have; a slot is `session number * ROOM + seq`."""

MIGRATIONS = (
    Migration(
        "log",
        1,
        (
            """CREATE TABLE sessions (
                number {serial},
                container TEXT NOT NULL,
                id TEXT NOT NULL,
                turn TEXT,
                epoch {int} NOT NULL DEFAULT 0,
                nonce TEXT NOT NULL DEFAULT '',
                user_id TEXT,
                title TEXT,
                status TEXT,
                metadata TEXT,
                events {int} NOT NULL DEFAULT 0,
                retain_context {int},
                parent TEXT,
                base TEXT,
                base_seq {int} NOT NULL DEFAULT 0,
                base_run TEXT,
                fork_run TEXT,
                gone {int} NOT NULL DEFAULT 0,
                created_at {real} NOT NULL,
                UNIQUE (container, id)
            )""",
            "CREATE INDEX sessions_base ON sessions (container, base) WHERE base IS NOT NULL",
            """CREATE TABLE runs (
                container TEXT NOT NULL,
                id TEXT NOT NULL,
                session TEXT NOT NULL,
                definition TEXT NOT NULL,
                status TEXT NOT NULL,
                input_hash TEXT NOT NULL,
                position {int} NOT NULL,
                last {int} NOT NULL,
                epoch {int} NOT NULL DEFAULT 0,
                nonce TEXT NOT NULL DEFAULT '',
                owner TEXT,
                cancelled {int} NOT NULL DEFAULT 0,
                parent TEXT,
                parent_key TEXT,
                detached {int} NOT NULL DEFAULT 0,
                lane TEXT,
                woken {int} NOT NULL DEFAULT 0,
                event {int} NOT NULL DEFAULT 0,
                user_id TEXT,
                deaths {int} NOT NULL DEFAULT 0,
                held TEXT,
                ends_at {real},
                claimed_at {int} NOT NULL DEFAULT 0,
                queuer TEXT,
                created_at {real} NOT NULL,
                PRIMARY KEY (container, id)
            )""",
            "CREATE INDEX runs_running ON runs (owner) WHERE status = 'running'",
            "CREATE INDEX runs_waiting ON runs (cancelled, ends_at) WHERE status = 'waiting'",
            "CREATE INDEX runs_session ON runs (container, session, position)",
            "CREATE INDEX runs_queued ON runs (container, session, position) WHERE status = 'queued'",
            "CREATE INDEX runs_lane ON runs (lane) WHERE lane IS NOT NULL AND status = 'running'",
            "CREATE INDEX runs_parent ON runs (container, parent) WHERE parent IS NOT NULL",
            """CREATE TABLE records (
                slot {int} NOT NULL UNIQUE,
                container TEXT NOT NULL,
                session TEXT NOT NULL,
                seq {int} NOT NULL,
                run TEXT NOT NULL,
                key TEXT,
                kind TEXT NOT NULL,
                version {int} NOT NULL,
                payload {blob},
                blob {int} NOT NULL DEFAULT 0,
                created_at {real} NOT NULL
            )""",
            "CREATE UNIQUE INDEX records_key ON records (container, run, key) WHERE key IS NOT NULL",
            "CREATE INDEX records_points ON records (slot) WHERE kind IN ('compacted', 'rewound')",
            "CREATE TABLE blobs (slot {int} PRIMARY KEY, container TEXT NOT NULL, payload {blob})",
            """CREATE {unlogged} TABLE live (
                container TEXT NOT NULL,
                session TEXT NOT NULL,
                run TEXT NOT NULL,
                step TEXT NOT NULL,
                epoch {int} NOT NULL,
                n {int} NOT NULL,
                payload {blob} NOT NULL,
                PRIMARY KEY (container, session, run, step, epoch, n)
            ) {by_key}""",
            """CREATE TABLE events (
                number {serial},
                container TEXT NOT NULL,
                id TEXT NOT NULL,
                name TEXT NOT NULL,
                data {blob} NOT NULL,
                at {real} NOT NULL,
                run TEXT,
                user_id TEXT,
                UNIQUE (container, id)
            )""",
            "CREATE INDEX events_name ON events (container, name, number)",
            "CREATE INDEX events_run ON events (container, run) WHERE run IS NOT NULL",
            "CREATE INDEX events_at ON events (container, at)",
            """CREATE TABLE waiters (
                container TEXT NOT NULL,
                id TEXT NOT NULL,
                run TEXT NOT NULL,
                session TEXT NOT NULL,
                asker TEXT NOT NULL,
                kind TEXT NOT NULL,
                wait {blob} NOT NULL,
                name TEXT,
                probe TEXT,
                expires {real},
                place {int} NOT NULL,
                at {real} NOT NULL,
                PRIMARY KEY (container, id)
            ) {by_key}""",
            "CREATE INDEX waiters_run ON waiters (container, run)",
            "CREATE INDEX waiters_due ON waiters (expires) WHERE expires IS NOT NULL",
            "CREATE INDEX waiters_event ON waiters (container, name, probe) WHERE name IS NOT NULL",
            """CREATE TABLE answers (
                container TEXT NOT NULL,
                wait TEXT NOT NULL,
                run TEXT NOT NULL,
                asker TEXT NOT NULL,
                answer {blob} NOT NULL,
                event TEXT,
                seq {int} NOT NULL DEFAULT 0,
                late {int} NOT NULL DEFAULT 0,
                at {real} NOT NULL
            )""",
            "CREATE UNIQUE INDEX answers_first ON answers (container, wait) WHERE late = 0",
            "CREATE INDEX answers_run ON answers (container, run)",
            """CREATE TABLE containers (
                id TEXT PRIMARY KEY,
                config TEXT NOT NULL DEFAULT '{{}}',
                created_at {real} NOT NULL,
                updated_at {real} NOT NULL
            ) {by_key}""",
            """CREATE TABLE images (
                id TEXT PRIMARY KEY,
                container TEXT NOT NULL,
                session TEXT NOT NULL,
                name TEXT NOT NULL,
                description TEXT,
                system_prompt TEXT,
                model TEXT,
                mcp_servers TEXT,
                definition TEXT,
                parent TEXT,
                metadata TEXT NOT NULL DEFAULT '{{}}',
                created_at {real} NOT NULL,
                updated_at {real} NOT NULL
            ) {by_key}""",
            "CREATE INDEX images_container ON images (container, created_at)",
            """CREATE TABLE agents (
                image TEXT PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                container TEXT NOT NULL,
                owner TEXT NOT NULL,
                created_at {real} NOT NULL
            ) {by_key}""",
            "CREATE INDEX agents_container ON agents (container, created_at)",
            """CREATE TABLE functions (
                name TEXT PRIMARY KEY,
                event TEXT,
                cron TEXT,
                most {int},
                by_key TEXT,
                next_at {real},
                owner TEXT NOT NULL,
                at {real} NOT NULL,
                containers TEXT NOT NULL
            ) {by_key}""",
            "CREATE INDEX functions_event ON functions (event) WHERE event IS NOT NULL",
            """CREATE TABLE owners (
                id TEXT PRIMARY KEY,
                beat {int} NOT NULL,
                host TEXT NOT NULL,
                lock TEXT NOT NULL
            ) {by_key}""",
        ),
    ),
)

EVENTS = Migration(
    "session events", 1, ("CREATE INDEX IF NOT EXISTS records_events ON records (slot) WHERE kind = 'event'",)
)
"""What a store has once somebody has posted an event in it."""
