"""A history adapter for Redis and what speaks its protocol.

A thread is a list of entries, a set of their ids, and a hash that says whose it is; a script appends what the set does
not have, and nothing comes between. The client is used in threads, so the adapter belongs to no event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from perdure.durable.threads import in_thread
from perdure.history.threads import Entry, ThreadStore, shown_address
from perdure.types.errors import ConfigurationError, DefinitionError, HistoryError, HistoryUnavailable, MissingExtra

if TYPE_CHECKING:
    from redis import Redis

T = TypeVar("T")

_APPEND = """
for i = 4, #ARGV, 2 do
  if redis.call('SADD', KEYS[2], ARGV[i]) == 1 then
    redis.call('RPUSH', KEYS[1], ARGV[i + 1])
  end
end
redis.call('HSETNX', KEYS[3], 'created_at', ARGV[1])
if ARGV[2] ~= '' then redis.call('HSETNX', KEYS[3], 'user_id', ARGV[2]) end
if ARGV[3] ~= '' then
  for i = 1, #KEYS do redis.call('PEXPIRE', KEYS[i], ARGV[3]) end
end
"""


class RedisHistory(ThreadStore):
    """Keeps conversations in Redis.

    Args:
        server: an address such as `redis://host:6379/0` or `rediss://…`, or a sync client of the package `redis`, which
            stays its owner's to close.
        prefix: what the keys begin with.
        expires: seconds after which a thread that nobody has written to is gone; never unless given.

    Raises:
        MissingExtra: the package `redis` is not installed.
        ConfigurationError: the address cannot be read.
        DefinitionError: an argument is wrong.
    """

    def __init__(self, server: str | Redis, *, prefix: str = "perdure:history", expires: float | None = None) -> None:
        if expires is not None and not (type(expires) in (int, float) and expires >= 0.001):
            raise DefinitionError(f"RedisHistory(expires={expires!r}): give seconds, above 0, or None.")
        if not isinstance(prefix, str) or not prefix or "{" in prefix:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise DefinitionError(f"RedisHistory(prefix={prefix!r}): give text without a brace.")
        self._prefix = prefix
        self._expires = "" if expires is None else str(int(expires * 1000))
        self._owned = isinstance(server, str)
        self._shown = shown_address(server) if isinstance(server, str) else "a client"
        self._client: Any = _client(server) if isinstance(server, str) else _checked(server)

    def __repr__(self) -> str:
        return f"RedisHistory({self._shown!r})"

    async def close(self) -> None:
        """Close the connections, if they are this adapter's own."""
        if self._owned:
            await in_thread(self._client.close)

    async def put(self, thread_id: str, entries: Sequence[Entry], user_id: str | None) -> None:
        """Append entries by one script."""
        created = str(entries[0].created_at) if entries else ""
        given = [part for one in entries for part in (one.id, one.text)]
        await self._do(
            self._client.eval, _APPEND, 3, *self._keys(thread_id), created, user_id or "", self._expires, *given
        )

    async def texts(self, thread_id: str) -> Sequence[bytes]:
        """Read the list."""
        return await self._do(self._client.lrange, self._keys(thread_id)[0], 0, -1)

    async def forget(self, thread_id: str) -> bool:
        """Delete the thread's keys."""
        return bool(await self._do(self._client.delete, *self._keys(thread_id)))

    def _keys(self, thread_id: str) -> tuple[str, str, str]:
        """The keys of a thread: the braces keep them on one node of a cluster."""
        thread = f"{self._prefix}:{{{thread_id}}}"
        return f"{thread}:turns", f"{thread}:known", f"{thread}:about"

    async def _do(self, command: Callable[..., T], *args: Any) -> T:
        from redis import exceptions as exc

        try:
            return await in_thread(command, *args)
        except (exc.ConnectionError, exc.TimeoutError, OSError) as error:
            raise HistoryUnavailable(
                f"{self!r} cannot be used now: {type(error).__name__}: {error}. Is the server there, "
                "and the password right?"
            ) from error
        except exc.RedisError as error:
            raise HistoryError(f"{self!r} failed: {type(error).__name__}: {error}") from error


def _client(address: str) -> Any:
    try:
        import redis
    except ModuleNotFoundError as error:
        raise MissingExtra("redis", "redis") from error
    try:
        kind: Any = redis.Redis
        return kind.from_url(address, socket_connect_timeout=10.0, socket_timeout=20.0)
    except Exception as error:
        raise ConfigurationError(
            "The address of the history's Redis cannot be read. Write it as redis://user:password@host:6379/0 "
            f"({type(error).__name__})."
        ) from None  # what it says may show the password


def _checked(client: Any) -> Any:
    if not hasattr(client, "eval") or type(cast("object", client)).__module__.startswith("redis.asyncio"):
        raise DefinitionError(
            f"RedisHistory takes an address or a sync client (redis.Redis), not {type(client).__name__}: "
            "commands run in threads."
        )
    return client
