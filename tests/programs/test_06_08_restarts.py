"""Program 6: continue after a restart. Program 8: crash and resume, with nothing to write."""

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

from perdure import Agent, Network, RouterArgs, Runtime, tool
from perdure.testing import FunctionModel, ScriptedModel, call, say
from perdure.types.messages import Message, ToolResultMessage

FOLDER = Path(os.environ.get("FOLDER", "."))


@tool(effect="pure")
async def slow(part: str) -> str:
    """Do a part of a long job; the first process never gets beyond the second part."""
    with (FOLDER / "done").open("a") as file:
        file.write(f"{part}\n")
    if part == "second" and "DIES" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return part


def says(request: Any) -> Any:
    """Answer by what was done, as a model does: a process that goes on has no other memory."""
    done = sum(isinstance(one, ToolResultMessage) for one in request.messages)
    return (call("slow", part="first"), call("slow", part="second"), say("All of it is done."))[done]


def route(r: RouterArgs[Any]) -> Agent | None:
    return worker if r.call_count == 0 else None


worker = Agent("Worker", tools=[slow])
desk = Network("desk", agents=[worker], router=route, model=FunctionModel(says))


async def test_continue_after_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/chat.db"
    said: list[Message] = []
    for question in ("Why was the first one charged twice?", "and the second one?"):
        async with Runtime(url, [desk]) as rt:
            await rt.run(desk, question, session_id="t-42", model=ScriptedModel(say(f"About that: {question}")))
            said = [m async for m in rt.session("t-42").messages()]
    assert [getattr(one, "role", "") for one in said] == ["user", "assistant"] * 2
    assert "and the second one?" in str(said[3])


async def job(url: str) -> str:
    async with Runtime(url, [desk]) as rt:  # takes over dead runs, in the background
        run = await rt.start(desk, "long job", run_id="job-7")  # same id again: same run, not a second one
        result = await run.result()
        assert len(await rt.runs()) == 1
    return result.output


async def test_crash_and_resume(tmp_path: Path) -> None:
    path = os.pathsep.join(str(Path(__file__).parents[2] / one) for one in ("src", ""))
    codes: list[int] = []
    for more in ({"DIES": "1"}, {}, {}):
        environment = {**os.environ, "PYTHONPATH": path, "FOLDER": str(tmp_path), **more}
        process = await asyncio.create_subprocess_exec(
            sys.executable, __file__, f"sqlite:///{tmp_path}/desk.db", env=environment, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        codes.append(process.returncode or 0)
    assert codes == [-signal.SIGKILL, 0, 0]
    assert out.decode() == "All of it is done.\n"
    assert (tmp_path / "done").read_text().split() == ["first", "second", "second"], "what has a record is kept"


if __name__ == "__main__":
    print(asyncio.run(job(sys.argv[1])))
