"""Where an image's files lie: a folder of its own below the runtime's, which no id leads out of."""

from __future__ import annotations

import shutil
from pathlib import Path

from perdure.types.errors import InvalidId
from perdure.types.ids import check_id


def workdir(base: Path, container: str, image: str) -> Path:
    """Say which folder an image has: `<base>/containers/<container>/workdirs/<image>`.

    Raises:
        InvalidId: an id has a shape that is not allowed, or something on the way leads out of the base.
    """
    root = base.resolve()
    path = root / "containers" / check_id(container, "container_id") / "workdirs" / check_id(image, "image_id")
    if path.resolve() != path:  # a link on the way: what lies behind it is not ours to give
        raise InvalidId(f"The folder {path} is reached over a link, to {path.resolve()}; remove the link.")
    return path


def make_workdir(base: Path, container: str, image: str) -> Path:
    """Make an image's folder, which only this user may enter.

    Raises:
        InvalidId: see `workdir`.
        OSError: it cannot be made.
    """
    path = workdir(base, container, image)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def remove_workdir(base: Path, container: str, image: str) -> None:
    """Remove an image's folder with all that is in it; links in it are removed, and not what they lead to.

    Raises:
        InvalidId: see `workdir`.
        OSError: it cannot be removed.
    """
    path = workdir(base, container, image)
    if path.exists():
        shutil.rmtree(path)
