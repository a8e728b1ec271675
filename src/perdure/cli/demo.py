"""The demo network: a librarian searches files, an answerer answers from what it found, code connects the two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from perdure.agents.agent import Agent
from perdure.agents.context import Context
from perdure.agents.network import Network
from perdure.agents.patch import extend
from perdure.agents.routers import RouterArgs
from perdure.agents.tool import tool
from perdure.cli.library import Library
from perdure.types.errors import ModelRetry


@dataclass
class Findings:
    """What the agents of one run share: which queries were tried, and where something was found."""

    queries: Annotated[list[str], extend] = field(default_factory=list[str])
    places: Annotated[list[str], extend] = field(default_factory=list[str])


@tool(effect="pure")
def search_files(ctx: Context[Findings], query: str, limit: int = 6) -> list[dict[str, Any]]:
    """Search the files for passages, best first.

    Args:
        query: the words that matter, without filler
        limit: at most so many passages, 1 to 20
    """
    hits = ctx.use(Library).search(query, max(1, min(limit, 20)))
    data = ctx.state.data
    data.queries.append(query)
    data.places.extend(f"{one.path}:{one.start}-{one.end}" for one in hits)
    return [{"path": one.path, "start": one.start, "end": one.end, "text": one.text} for one in hits]


@tool(effect="pure")
def read_lines(ctx: Context[Findings], path: str, start: int, end: int) -> dict[str, Any]:
    """Read lines of one of the files that were found.

    Args:
        path: as the search gave it
        start: the first line, counted from 1
        end: the last line
    """
    library = ctx.use(Library)
    try:
        found = library.lines(path, start, end)
    except KeyError:
        raise ModelRetry(f"There is no file {path!r} in this library; use a path that search_files gave.") from None
    except IndexError as error:
        raise ModelRetry(f"{path} has the lines 1 to {error.args[0]}, not {start} to {end}.") from None
    return {"path": found.path, "start": found.start, "end": found.end, "text": found.text}


librarian = Agent(
    "Librarian",
    description="Finds the passages of the files that a question is about.",
    system=(
        "You are a librarian. Call search_files for the user's question, with the few words that matter. If the "
        "question has several parts, or could be worded in other ways, make several searches at once. Do not answer."
    ),
    tools=[search_files],
    tool_choice="any",
    stop_when=["search_files"],
    max_iter=3,
)

answerer = Agent(
    "Answerer",
    description="Answers the question from the passages that were found, with citations.",
    system=(
        "Answer the user's last question from the passages that search_files found, and from nothing else. Cite the "
        "file and line of every statement as (path:line); a passage's first line is its `start`. If the passages are "
        "not enough, read further lines or search again. If the files do not say it, say so. Be brief; plain text."
    ),
    tools=[search_files, read_lines],
    max_iter=6,
)


def route(r: RouterArgs[Findings]) -> Agent | None:
    """First the librarian, then the answerer; the run ends when it has answered."""
    if r.call_count == 0:
        return librarian
    return answerer if r.call_count == 1 else None


library_desk = Network(
    "Library desk",
    description="Answers questions about files, with citations.",
    agents=[librarian, answerer],
    router=route,
    state=Findings,
)
