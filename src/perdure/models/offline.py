"""The offline model: deterministic, in process, no language model. It looks things up and quotes what was found.

It is a `Model` like any other. Offered a tool that looks things up, and no result for the last question yet, it calls
the tool with the question's key words. With results it answers with the sentences that match the question best and
where they are from, and says so when none does. Forced tool calls and structured answers are filled from the text of
the conversation, a routing agent's tools by the agents' descriptions. Same request, same answer.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, cast
from xml.sax.saxutils import unescape

from perdure.models.best_quotes import best_quotes
from perdure.models.fill import fill
from perdure.models.lookup import lookup_score, searches
from perdure.models.model import Capabilities, ModelRequest, ToolSpec
from perdure.models.quotes import Quote, quotes
from perdure.models.ranking import Ranking, key_words, terms
from perdure.types.base import encode_json
from perdure.types.chunks import Finished, FinishReason, ModelEvent, TextChunk, ToolCallChunk
from perdure.types.messages import Message, TextMessage, ToolCallMessage, ToolResultMessage, result_text
from perdure.types.usage import Prices, Usage

NO_TOOLS = (
    "I am Perdure's offline model. There is no language model behind me: I can only quote what a tool has found, and "
    "here no tool has found anything. Give the agent a tool that searches, or a real model, such as "
    'model="openai:gpt-5-mini" with OPENAI_API_KEY set.'
)
_ELLIPTIC = re.compile(r"\W*(?:and|or|but|what about|how about)\b", re.IGNORECASE)
_WORD = re.compile(r"\s*\S+\s?|\s+")
_AGENT = re.compile(r"<agent>(.*?)</agent>", re.DOTALL)
_FIELDS = re.compile(r"\s*<name>(.*?)</name>\s*(?:<description>(.*?)</description>)?", re.DOTALL)


class _Call(NamedTuple):
    name: str
    arguments: dict[str, Any]


class _Turn(NamedTuple):
    """What matters of a conversation: the last question, the one before it, and what has happened since."""

    question: str
    earlier_question: str
    since: Sequence[Message]
    before: Sequence[Message]

    def results(self) -> list[ToolResultMessage]:
        return [one for one in self.since if isinstance(one, ToolResultMessage)]

    def subject(self) -> str:
        """The question, with the one before it if it says too little alone, as "and where?" does."""
        if self.earlier_question and (_ELLIPTIC.match(self.question) or not key_words(self.question)):
            return f"{self.earlier_question} {self.question}"
        return self.question

    def query(self) -> str:
        """The words to look for."""
        return " ".join(key_words(self.subject())) or self.question


class OfflineModel:
    """A small deterministic model without a language model: it looks up, and quotes with sources."""

    name = "offline"
    provider = "offline"
    capabilities = Capabilities(structured_output="yes")
    prices = Prices(Decimal(0), Decimal(0))

    def __repr__(self) -> str:
        return "OfflineModel()"

    async def stream(self, request: ModelRequest) -> AsyncIterator[ModelEvent]:
        """Answer a request, word by word."""
        reply = respond(request)
        read = sum(len(_WORD.findall(_shown(one))) for one in request.messages)
        reason: FinishReason = "stop"
        if isinstance(reply, _Call):
            reason, written = "tool", 1
            number = sum(len(one.tools) for one in request.messages if isinstance(one, ToolCallMessage)) + 1
            arguments = encode_json(reply.arguments).decode()
            yield ToolCallChunk(id=f"offline-{number}", name=reply.name, arguments=arguments)
        else:
            for stop in request.settings.stop:
                reply = reply.partition(stop)[0]
            pieces = _WORD.findall(reply)
            if request.settings.max_tokens is not None and len(pieces) > request.settings.max_tokens:
                pieces, reason = pieces[: request.settings.max_tokens], "max_tokens"
            written = len(pieces)
            for piece in pieces:
                yield TextChunk(piece)
        usage = Usage(input_tokens=read, output_tokens=written)
        yield Finished(reason, usage, self.name, self.provider)


def respond(request: ModelRequest) -> str | _Call:
    """Decide what to say, or which tool to call."""
    turn = _read(request.messages)
    tool = _choose_tool(request, turn)
    if tool is not None:
        return _call(tool, request, turn)
    if request.output is not None:
        return encode_json(fill(request.output.schema, _known(turn), turn.query())).decode()
    return _answer(turn)


def _read(messages: Sequence[Message]) -> _Turn:
    asked = [n for n, one in enumerate(messages) if isinstance(one, TextMessage) and one.role == "user" and one.text]
    if not asked:
        return _Turn("", "", messages, ())
    earlier = _shown(messages[asked[-2]]) if len(asked) > 1 else ""
    return _Turn(_shown(messages[asked[-1]]), earlier, messages[asked[-1] + 1 :], messages[: asked[-1]])


def _shown(message: Message) -> str:
    """The text of a message, whatever its kind."""
    match message:
        case TextMessage():
            return message.text
        case ToolCallMessage():
            return " ".join(f"{one.name} {result_text(one.input)}" for one in message.tools)
        case ToolResultMessage():
            return result_text(message.content)
        case _:
            return ""


def _known(turn: _Turn) -> str:
    """All that this turn knows as one text: the question, then what tools returned."""
    found = [quote.text for one in turn.results() if not one.is_error for quote in quotes(one.data)]
    return "\n".join([turn.question, *found])


# -- tools ----------------------------------------------------------------------------------------------------------


def _choose_tool(request: ModelRequest, turn: _Turn) -> ToolSpec | None:
    """Choose the tool to call: the forced one, the best when one must be called, else one that looks things up."""
    tools, choice = request.tools, request.tool_choice
    if not tools or choice == "none":
        return None
    if choice not in ("auto", "any"):
        return next((one for one in tools if one.name == choice), None)
    names = {one.name: one for one in tools}
    if "select_agent" in names and "done" in names:
        return names["select_agent" if _next_agent(names["select_agent"], request, turn) else "done"]
    results = turn.results()
    if choice == "any":
        called = {one.tool.name for one in results}
        tools = tuple(one for one in tools if one.name not in called) or tools
        if results:  # then rather the tool that takes an answer than another search
            tools = tuple(one for one in tools if not searches(one)) or tools
    score, tool = max(((lookup_score(one, turn.question), one) for one in tools), key=lambda one: one[0])
    return tool if choice == "any" or (score > 0 and turn.question and not results) else None


def _call(tool: ToolSpec, request: ModelRequest, turn: _Turn) -> _Call:
    """Fill a tool's arguments from the conversation."""
    if tool.name == "select_agent" and (agent := _next_agent(tool, request, turn)):
        arguments = fill(tool.parameters, turn.question, turn.query())
        reason = {"reason": "its description matches best"} if "reason" in tool.parameters.get("properties", {}) else {}
        return _Call(tool.name, {**arguments, "name": agent, **reason})
    if tool.name == "done" and "summary" in tool.parameters.get("properties", {}):
        said = [one.text for one in turn.since if isinstance(one, TextMessage) and one.role == "assistant"]
        return _Call(tool.name, {"summary": said[-1] if said else "Nothing was said."})
    text = turn.question if searches(tool) else _known(turn)
    return _Call(tool.name, fill(tool.parameters, text, turn.query()))


def _next_agent(tool: ToolSpec, request: ModelRequest, turn: _Turn) -> str | None:
    """Choose the agent whose description fits the question best; None if an agent has answered it."""
    if any(isinstance(one, TextMessage) and one.role == "assistant" and one.text.strip() for one in turn.since):
        return None
    system = "\n".join(one.text for one in request.messages if isinstance(one, TextMessage) and one.role == "system")
    listed = [found for one in _AGENT.findall(system) if (found := _FIELDS.match(one))]
    agents = {unescape(one[1]).strip(): unescape(one[2] or "") for one in listed}
    allowed: list[str] = tool.parameters.get("properties", {}).get("name", {}).get("enum") or list(agents)
    if not allowed:
        return None
    ranking = Ranking([terms(f"{one} {agents.get(one, '')}") for one in allowed])
    best = ranking.best(terms(turn.question), 1)
    return allowed[best[0][0]] if best else allowed[0]


# -- answers --------------------------------------------------------------------------------------------------------


def _answer(turn: _Turn) -> str:
    """Quote what fits the question best, or say plainly why there is nothing to quote."""
    now = turn.results()
    past = [one for one in turn.before if isinstance(one, ToolResultMessage)]
    if not now and not past:
        return NO_TOOLS
    for results in (now, past):
        if chosen := best_quotes(turn.subject(), _quotes(results)):
            lines = [f"{_trimmed(one.text)} ({one.source})" if one.source else _trimmed(one.text) for one in chosen]
            return lines[0] if len(lines) == 1 else "\n".join(f"- {line}" for line in lines)
    failed = [one for one in now if one.is_error]
    if failed and len(failed) == len(now):
        return f"The tool {failed[-1].tool.name} failed, so there is nothing to quote: {_error(failed[-1])}"
    count = len(_quotes(now or past))
    seen = f"none of the {count} sentences that were found matches it" if count else "the tools found nothing"
    return f"I have no answer to “{_trimmed(turn.question, 120)}”: {seen}. Try other words."


def _quotes(results: Sequence[ToolResultMessage]) -> list[Quote]:
    """Collect the quotes of all results, each once; what names no source is from the tool."""
    found: dict[tuple[str, str], Quote] = {}
    for result in results:
        if result.is_error:
            continue
        about = f"{result.tool.name} {result_text(result.tool.input)}"
        for one in quotes(result.data, about):
            found.setdefault((one.text, one.source), one if one.source else one._replace(source=result.tool.name))
    return list(found.values())


def _error(result: ToolResultMessage) -> str:
    content: Any = result.content
    error: Any = content["error"]
    return str(cast("dict[str, Any]", error).get("message", error)) if isinstance(error, dict) else str(error)


def _trimmed(text: str, limit: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1].rstrip() + "…"
