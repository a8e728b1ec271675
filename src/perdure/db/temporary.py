"""A store that lasts as long as it is open: for tests, trials, and whatever need not outlive its process."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from perdure.db.database import StoreError
from perdure.db.sqlite import SqliteDatabase


class TemporaryDatabase(SqliteDatabase):
    """SQLite in a folder of its own, which is removed when it is closed: all else is as in a file that stays."""

    def __init__(self) -> None:
        super().__init__("memory:", "normal")
        self.url = "memory:"
        self._folder: TemporaryDirectory[str] | None = None

    async def open(self) -> None:
        """Make the folder, and open an empty store in it.

        Raises:
            StoreError: it was open before.
        """
        if self.path.name == "memory.db":
            raise StoreError("A store in memory is gone when it is closed; make another runtime, or give it a file.")
        self._folder = TemporaryDirectory(prefix="perdure-", ignore_cleanup_errors=True)
        self.path = Path(self._folder.name) / "memory.db"
        await super().open()

    async def close(self) -> None:
        """Close it, and remove all that was kept."""
        await super().close()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
