"""Perdure: stateful, durable multi-agent systems.

    from perdure import Agent

    greeter = Agent("Greeter", system="Greet in one line.", model="openai:gpt-5-mini")
    print(greeter.run_sync("I am Ada").output)

Every public name is loaded when it is first used. The events `RunFailed`, `RunCancelled` and `RunWaiting`, which share
their names with exceptions, are in `perdure.events` together with all other events.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure import events as events
    from perdure.agents.agent import Agent as Agent
    from perdure.agents.ask_human import ask_human as ask_human
    from perdure.agents.ask_human import human_tool as human_tool
    from perdure.agents.budget import Budget as Budget
    from perdure.agents.context import Context as Context
    from perdure.agents.context import NetworkRun as NetworkRun
    from perdure.agents.function import Function as Function
    from perdure.agents.function import function as function
    from perdure.agents.handle import Run as Run
    from perdure.agents.history import Asked as Asked
    from perdure.agents.history import HistoryAdapter as HistoryAdapter
    from perdure.agents.history import HistoryContext as HistoryContext
    from perdure.agents.hooks import Hooks as Hooks
    from perdure.agents.hooks import Stop as Stop
    from perdure.agents.mcp import MCPServer as MCPServer
    from perdure.agents.mcp import mcp as mcp
    from perdure.agents.network import Network as Network
    from perdure.agents.options import FunctionOptions as FunctionOptions
    from perdure.agents.options import RunOptions as RunOptions
    from perdure.agents.outcome import RunResult as RunResult
    from perdure.agents.patch import add as add
    from perdure.agents.patch import extend as extend
    from perdure.agents.result import AgentResult as AgentResult
    from perdure.agents.routers import Parallel as Parallel
    from perdure.agents.routers import Route as Route
    from perdure.agents.routers import RouterArgs as RouterArgs
    from perdure.agents.routers import branch as branch
    from perdure.agents.routers import parallel as parallel
    from perdure.agents.routers import sequence as sequence
    from perdure.agents.routing_agent import RoutingAgent as RoutingAgent
    from perdure.agents.routing_agent import default_routing_agent as default_routing_agent
    from perdure.agents.state import State as State
    from perdure.agents.stream import RunStream as RunStream
    from perdure.agents.tool import Tool as Tool
    from perdure.agents.tool import tool as tool
    from perdure.agents.toolsets import Toolset as Toolset
    from perdure.agents.toolsets import toolset as toolset
    from perdure.db.database import StoreError as StoreError
    from perdure.db.transaction import AsyncTransaction as AsyncTransaction
    from perdure.db.transaction import Transaction as Transaction
    from perdure.history.log import LogHistory as LogHistory
    from perdure.history.mongodb import MongoHistory as MongoHistory
    from perdure.history.redis import RedisHistory as RedisHistory
    from perdure.history.sql import SqlHistory as SqlHistory
    from perdure.history.summarise import summarise as summarise
    from perdure.history.trim import drop_tool_chatter as drop_tool_chatter
    from perdure.history.trim import fit_tokens as fit_tokens
    from perdure.history.trim import keep_last as keep_last
    from perdure.log.erase import Erasure as Erasure
    from perdure.log.policy import Policy as Policy
    from perdure.log.policy import Quota as Quota
    from perdure.log.search import SearchHit as SearchHit
    from perdure.log.transfer import ImportRefused as ImportRefused
    from perdure.models.model import Model as Model
    from perdure.models.model import ModelRequest as ModelRequest
    from perdure.models.model import ModelSettings as ModelSettings
    from perdure.runtime.bus import BusClosed as BusClosed
    from perdure.runtime.requests import RequestTimeout as RequestTimeout
    from perdure.runtime.runtime import Runtime as Runtime
    from perdure.types.attachments import file as file
    from perdure.types.attachments import image as image
    from perdure.types.concurrency import Concurrency as Concurrency
    from perdure.types.errors import AmbiguousStep as AmbiguousStep
    from perdure.types.errors import AuthenticationFailed as AuthenticationFailed
    from perdure.types.errors import BadRequest as BadRequest
    from perdure.types.errors import BadResponse as BadResponse
    from perdure.types.errors import ConfigurationError as ConfigurationError
    from perdure.types.errors import Conflict as Conflict
    from perdure.types.errors import ContentRefused as ContentRefused
    from perdure.types.errors import ContextTooLong as ContextTooLong
    from perdure.types.errors import DefinitionError as DefinitionError
    from perdure.types.errors import HistoryError as HistoryError
    from perdure.types.errors import HistoryUnavailable as HistoryUnavailable
    from perdure.types.errors import InvalidId as InvalidId
    from perdure.types.errors import InvalidSessionState as InvalidSessionState
    from perdure.types.errors import InvokeError as InvokeError
    from perdure.types.errors import InvokeTimeout as InvokeTimeout
    from perdure.types.errors import MissingExtra as MissingExtra
    from perdure.types.errors import MissingKey as MissingKey
    from perdure.types.errors import ModelError as ModelError
    from perdure.types.errors import ModelRetry as ModelRetry
    from perdure.types.errors import ModelTimeout as ModelTimeout
    from perdure.types.errors import ModelUnreachable as ModelUnreachable
    from perdure.types.errors import NeedsRuntime as NeedsRuntime
    from perdure.types.errors import NoModel as NoModel
    from perdure.types.errors import NonRetriable as NonRetriable
    from perdure.types.errors import NotDone as NotDone
    from perdure.types.errors import OutputInvalid as OutputInvalid
    from perdure.types.errors import OverBudget as OverBudget
    from perdure.types.errors import Overloaded as Overloaded
    from perdure.types.errors import PerdureError as PerdureError
    from perdure.types.errors import QuotaExceeded as QuotaExceeded
    from perdure.types.errors import RateLimited as RateLimited
    from perdure.types.errors import RetryAfter as RetryAfter
    from perdure.types.errors import RunCancelled as RunCancelled
    from perdure.types.errors import RunError as RunError
    from perdure.types.errors import RunFailed as RunFailed
    from perdure.types.errors import RunWaiting as RunWaiting
    from perdure.types.errors import SessionNotFound as SessionNotFound
    from perdure.types.errors import StepError as StepError
    from perdure.types.errors import StepInDoubt as StepInDoubt
    from perdure.types.errors import StepOutsideSteps as StepOutsideSteps
    from perdure.types.errors import StepUndone as StepUndone
    from perdure.types.errors import ToolServerError as ToolServerError
    from perdure.types.errors import ToolServerUnreachable as ToolServerUnreachable
    from perdure.types.errors import TransactionError as TransactionError
    from perdure.types.errors import UnknownName as UnknownName
    from perdure.types.errors import Unserialisable as Unserialisable
    from perdure.types.events import AgentFinished as AgentFinished
    from perdure.types.events import AgentStarted as AgentStarted
    from perdure.types.events import AnyEvent as AnyEvent
    from perdure.types.events import BudgetExceeded as BudgetExceeded
    from perdure.types.events import Event as Event
    from perdure.types.events import EventPosted as EventPosted
    from perdure.types.events import MessageFinished as MessageFinished
    from perdure.types.events import MessageReset as MessageReset
    from perdure.types.events import MessageStarted as MessageStarted
    from perdure.types.events import ReasoningDelta as ReasoningDelta
    from perdure.types.events import RouteDecided as RouteDecided
    from perdure.types.events import RunCompleted as RunCompleted
    from perdure.types.events import RunResumed as RunResumed
    from perdure.types.events import RunStarted as RunStarted
    from perdure.types.events import SessionChanged as SessionChanged
    from perdure.types.events import SessionForked as SessionForked
    from perdure.types.events import SessionRewound as SessionRewound
    from perdure.types.events import StateChanged as StateChanged
    from perdure.types.events import StateConflict as StateConflict
    from perdure.types.events import StepFinished as StepFinished
    from perdure.types.events import StepRetrying as StepRetrying
    from perdure.types.events import StepStarted as StepStarted
    from perdure.types.events import TextDelta as TextDelta
    from perdure.types.events import ToolArgsDelta as ToolArgsDelta
    from perdure.types.events import ToolCallReady as ToolCallReady
    from perdure.types.events import ToolCallStarted as ToolCallStarted
    from perdure.types.events import ToolFinished as ToolFinished
    from perdure.types.events import ToolProgress as ToolProgress
    from perdure.types.events import ToolStarted as ToolStarted
    from perdure.types.events import UsageUpdated as UsageUpdated
    from perdure.types.events import WaitOpened as WaitOpened
    from perdure.types.events import WaitResolved as WaitResolved
    from perdure.types.messages import FilePart as FilePart
    from perdure.types.messages import ImagePart as ImagePart
    from perdure.types.messages import Message as Message
    from perdure.types.messages import Part as Part
    from perdure.types.messages import ReasoningMessage as ReasoningMessage
    from perdure.types.messages import TextMessage as TextMessage
    from perdure.types.messages import TextPart as TextPart
    from perdure.types.messages import ToolCall as ToolCall
    from perdure.types.messages import ToolCallMessage as ToolCallMessage
    from perdure.types.messages import ToolResultMessage as ToolResultMessage
    from perdure.types.messages import UserMessage as UserMessage
    from perdure.types.messages import text as text
    from perdure.types.sent_event import SentEvent as SentEvent
    from perdure.types.session import PostedEvent as PostedEvent
    from perdure.types.session import SessionInfo as SessionInfo
    from perdure.types.usage import Prices as Prices
    from perdure.types.usage import Usage as Usage
    from perdure.types.waits import Answer as Answer
    from perdure.types.waits import Approval as Approval
    from perdure.types.waits import Approve as Approve
    from perdure.types.waits import ChildRun as ChildRun
    from perdure.types.waits import Decision as Decision
    from perdure.types.waits import Deny as Deny
    from perdure.types.waits import Elapsed as Elapsed
    from perdure.types.waits import EventWait as EventWait
    from perdure.types.waits import Question as Question
    from perdure.types.waits import Timer as Timer

__version__ = "0.1.0"

_ROOMS: dict[str, str] = {
    "perdure.agents.agent": "Agent",
    "perdure.agents.ask_human": "ask_human human_tool",
    "perdure.agents.budget": "Budget",
    "perdure.agents.context": "Context NetworkRun",
    "perdure.agents.function": "Function function",
    "perdure.agents.handle": "Run",
    "perdure.agents.history": "Asked HistoryAdapter HistoryContext",
    "perdure.agents.hooks": "Hooks Stop",
    "perdure.agents.mcp": "MCPServer mcp",
    "perdure.agents.network": "Network",
    "perdure.agents.options": "FunctionOptions RunOptions",
    "perdure.agents.outcome": "RunResult",
    "perdure.agents.patch": "add extend",
    "perdure.agents.result": "AgentResult",
    "perdure.agents.routers": "Parallel Route RouterArgs branch parallel sequence",
    "perdure.agents.routing_agent": "RoutingAgent default_routing_agent",
    "perdure.agents.state": "State",
    "perdure.agents.stream": "RunStream",
    "perdure.agents.tool": "Tool tool",
    "perdure.agents.toolsets": "Toolset toolset",
    "perdure.db.database": "StoreError",
    "perdure.db.transaction": "AsyncTransaction Transaction",
    "perdure.history.log": "LogHistory",
    "perdure.history.mongodb": "MongoHistory",
    "perdure.history.redis": "RedisHistory",
    "perdure.history.sql": "SqlHistory",
    "perdure.history.summarise": "summarise",
    "perdure.history.trim": "drop_tool_chatter fit_tokens keep_last",
    "perdure.log.erase": "Erasure",
    "perdure.log.policy": "Policy Quota",
    "perdure.log.search": "SearchHit",
    "perdure.log.transfer": "ImportRefused",
    "perdure.models.model": "Model ModelRequest ModelSettings",
    "perdure.runtime.bus": "BusClosed",
    "perdure.runtime.requests": "RequestTimeout",
    "perdure.runtime.runtime": "Runtime",
    "perdure.types.attachments": "file image",
    "perdure.types.concurrency": "Concurrency",
    "perdure.types.errors": (
        "AmbiguousStep AuthenticationFailed BadRequest BadResponse ConfigurationError Conflict ContentRefused "
        "ContextTooLong DefinitionError HistoryError HistoryUnavailable InvalidId InvalidSessionState InvokeError "
        "InvokeTimeout NonRetriable OverBudget RetryAfter MissingExtra MissingKey ModelError ModelRetry ModelTimeout "
        "ModelUnreachable NeedsRuntime NoModel NotDone OutputInvalid Overloaded PerdureError QuotaExceeded "
        "RateLimited RunCancelled RunError RunFailed RunWaiting SessionNotFound StepError StepInDoubt StepOutsideSteps "
        "StepUndone ToolServerError ToolServerUnreachable TransactionError UnknownName Unserialisable"
    ),
    "perdure.types.events": (
        "AgentFinished AgentStarted AnyEvent BudgetExceeded Event EventPosted MessageFinished MessageReset "
        "MessageStarted ReasoningDelta RouteDecided RunCompleted RunResumed RunStarted SessionChanged SessionForked "
        "SessionRewound StateChanged StateConflict StepFinished StepRetrying StepStarted TextDelta ToolArgsDelta "
        "ToolCallReady ToolCallStarted ToolFinished ToolProgress ToolStarted UsageUpdated WaitOpened WaitResolved"
    ),
    "perdure.types.messages": (
        "FilePart ImagePart Message Part ReasoningMessage TextMessage TextPart ToolCall ToolCallMessage "
        "ToolResultMessage UserMessage text"
    ),
    "perdure.types.session": "PostedEvent SessionInfo",
    "perdure.types.usage": "Prices Usage",
    "perdure.types.sent_event": "SentEvent",
    "perdure.types.waits": "Answer Approval Approve ChildRun Decision Deny Elapsed EventWait Question Timer",
}
_NAMES = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = [*_NAMES, "events"]  # pyright: ignore[reportUnsupportedDunderAll]  # one list serves both


def __getattr__(name: str) -> Any:
    if name == "events":
        value: Any = importlib.import_module("perdure.events")
    elif name in _NAMES:
        value = getattr(importlib.import_module(_NAMES[name]), name)
    else:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
