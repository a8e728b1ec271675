"""For tests of your own agents: models that answer what you script, so a test needs no network and no key.

`ScriptedModel` gives its answers in order and keeps what it was asked with in `requests`; `FunctionModel` answers with
a function of the request. An answer is a text, or made by `say`, `call`, `calls`, `fail`, `delay`, `hang`, `raw`.

    model = ScriptedModel(call("weather", city="Oslo"), say("Cold."))
    result = await agent.run("Oslo?", model=model)

`context` makes what a tool needs to be called alone, `EventRecorder` collects a run's events and checks them.

    assert await weather(context(Support()), "Oslo") == "Cold."

`crash_everywhere` kills a run at every record that it writes, and says what does not come out the same.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.testing.canonical import Canon as Canon
    from perdure.testing.canonical import canon as canon
    from perdure.testing.capture import EventRecorder as EventRecorder
    from perdure.testing.capture import ToolContext as ToolContext
    from perdure.testing.capture import context as context
    from perdure.testing.crash import CrashReport as CrashReport
    from perdure.testing.crash import crash_everywhere as crash_everywhere
    from perdure.testing.environment import ScriptedEnvironment as ScriptedEnvironment
    from perdure.testing.environment import ScriptedEnvironments as ScriptedEnvironments
    from perdure.testing.exports import export_test as export_test
    from perdure.testing.models import Answer as Answer
    from perdure.testing.models import FunctionModel as FunctionModel
    from perdure.testing.models import ScriptedModel as ScriptedModel
    from perdure.testing.models import ScriptExhausted as ScriptExhausted
    from perdure.testing.models import call as call
    from perdure.testing.models import calls as calls
    from perdure.testing.models import delay as delay
    from perdure.testing.models import fail as fail
    from perdure.testing.models import hang as hang
    from perdure.testing.models import raw as raw
    from perdure.testing.models import say as say
    from perdure.testing.recordings import Recording as Recording
    from perdure.testing.recordings import RecordingError as RecordingError
    from perdure.testing.recordings import recorded as recorded
    from perdure.testing.recordings import recording as recording
    from perdure.testing.redact import EMAILS as EMAILS
    from perdure.testing.redact import redacted as redacted
    from perdure.testing.replays import Replay as Replay
    from perdure.testing.replays import replay as replay
    from perdure.testing.reruns import NotForReal as NotForReal
    from perdure.testing.reruns import Rerun as Rerun
    from perdure.testing.reruns import rerun as rerun

_HOMES = {
    "perdure.testing.canonical": ("Canon", "canon"),
    "perdure.testing.crash": ("CrashReport", "crash_everywhere"),
    "perdure.testing.capture": ("EventRecorder", "ToolContext", "context"),
    "perdure.testing.environment": ("ScriptedEnvironment", "ScriptedEnvironments"),
    "perdure.testing.exports": ("export_test",),
    "perdure.testing.models": (
        *("Answer", "FunctionModel", "ScriptExhausted", "ScriptedModel"),
        *("call", "calls", "delay", "fail", "hang", "raw", "say"),
    ),
    "perdure.testing.recordings": ("Recording", "RecordingError", "recorded", "recording"),
    "perdure.testing.redact": ("EMAILS", "redacted"),
    "perdure.testing.replays": ("Replay", "replay"),
    "perdure.testing.reruns": ("NotForReal", "Rerun", "rerun"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(home)
    globals().update({one: getattr(module, one) for one in _HOMES[home]})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
