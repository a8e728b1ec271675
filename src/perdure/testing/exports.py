"""Writes a recorded run down as a test: its recording, and a small module for pytest that replays it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from perdure.testing.recordings import Recording
from perdure.testing.redact import Redact
from perdure.types.errors import DefinitionError

_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_TEST = '''\
"""Replays a run that was recorded: {name} still decides what it decided then."""

from pathlib import Path

{imports}
from perdure.testing import recorded, replay


def test_{function}() -> None:
    run = recorded(Path(__file__).with_name("{file}"))
    replay(run, {code}).check()
'''


def export_test(
    recording: Recording,
    folder: str | Path,
    code: str,
    *,
    calls: bool = False,
    redact: Redact | Sequence[Redact] | None = (),
) -> tuple[Path, Path]:
    """Write a recording and a test that replays it into a folder.

    A recording that is there is replaced; a test that is there is left as it is.

    Args:
        recording: what was recorded.
        folder: where to; made if it is not there.
        code: where the definitions are, as `module:name`.
        calls: whether that is a function that makes them.
        redact: what is to be redacted besides secrets, see `redacted`; None leaves everything as it is.

    Returns:
        The recording's file, and the test's.

    Raises:
        DefinitionError: `code` is not `module:name`.
        OSError: a file cannot be written.
    """
    module, _, name = code.partition(":")
    if not _PATH.fullmatch(module) or not _PATH.fullmatch(name):
        raise DefinitionError(f"{code!r} is not module:name, such as desk:definitions.")
    where = Path(folder)
    where.mkdir(parents=True, exist_ok=True)
    safe = re.sub(r"\W", "_", recording.run.id)
    kept = recording.save(where / f"{safe}.json", redact=redact)
    test = where / f"test_{safe}.py"
    if not test.exists():
        text = _TEST.format(
            name=recording.run.definition.replace('"', "'").replace("\\", "/"),
            imports=f"import {module}",
            function=f"{safe}_replays",
            file=kept.name,
            code=f"{module}.{name}" + ("()" if calls else ""),
        )
        test.write_text(text, encoding="utf-8")
    return kept, test
