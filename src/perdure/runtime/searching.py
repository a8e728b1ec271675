"""Searching what was said in a container."""

from __future__ import annotations

from functools import cached_property

from perdure.agents.in_sync import InSync
from perdure.log.search import LIMIT, Search, SearchHit
from perdure.log.sql import SqlLog


class Searching:
    """What can be searched in one container."""

    log: SqlLog

    @cached_property
    def _index(self) -> Search:
        return Search(self.log)

    async def search(
        self, text: str, *, user_id: str | None = None, session_id: str | None = None, limit: int = LIMIT
    ) -> list[SearchHit]:
        """Find what users and agents said and what tools gave, in all sessions of this container, the best hits first.

        A hit has all words; a word of three letters or more is also found at the beginning of a longer one, and a
        phrase in double quotes just as it stands there. Case and accents do not count. Nothing that is typed is an
        error. What was erased is not found, nor what a rewind has hidden, unless a fork is asked that still shows it.
        The first search of a store makes its index; later ones read what is new.

        Args:
            text: what is looked for.
            user_id: only what was said in runs of this user.
            session_id: only what this session shows.
            limit: at most so many hits, up to 1,000.

        Raises:
            UnknownName: there is no such session.
            DefinitionError: the limit is none.
            StoreError: this SQLite was built without full-text search.
        """
        return await self._index.find(text, user_id=user_id, session_id=session_id, limit=limit)

    search_sync = InSync(search)
