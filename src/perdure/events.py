"""All events of a run: `from perdure.events import RunFailed, TextDelta`.

`RunFailed`, `RunCancelled` and `RunWaiting` are events here; in `perdure` the same names are exceptions.
"""

from perdure.types.events import TERMINAL as TERMINAL
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
from perdure.types.events import RunCancelled as RunCancelled
from perdure.types.events import RunCompleted as RunCompleted
from perdure.types.events import RunFailed as RunFailed
from perdure.types.events import RunResumed as RunResumed
from perdure.types.events import RunStarted as RunStarted
from perdure.types.events import RunWaiting as RunWaiting
from perdure.types.events import SessionChanged as SessionChanged
from perdure.types.events import SessionForked as SessionForked
from perdure.types.events import SessionRewound as SessionRewound
from perdure.types.events import Sink as Sink
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
from perdure.types.events import envelope as envelope
from perdure.types.events import type_name as type_name
