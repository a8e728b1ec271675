"""Every block of code of the AgentX, history and RetainDB documents, in their order, and the test that has it here.

What stands in parentheses is no test, and says why. A type that a document declares is shown by the test that uses it.
"""

import re
from pathlib import Path

import pytest

AGENTX = """
Installation: (bun add; here pip install, as the README has it)
Quick Start: test_quick_start
createRuntime, signature: test_create_runtime_with_a_provider_and_a_default_agent
RuntimeConfig: test_create_runtime_with_a_provider_and_a_default_agent
createRuntime, example: test_create_runtime_with_a_provider_and_a_default_agent
Runtime interface: test_the_interfaces
emit: test_the_interfaces
emit, example: test_emit_subscribe_filter_once_and_unsubscribe
emitBatch: test_emit_subscribe_filter_once_and_unsubscribe
on: test_the_interfaces
on, example: test_emit_subscribe_filter_once_and_unsubscribe
onAny: test_the_interfaces
onAny, example: test_emit_subscribe_filter_once_and_unsubscribe
once: test_the_interfaces
once, example: test_emit_subscribe_filter_once_and_unsubscribe
onCommand: test_the_interfaces
onCommand, example: test_commands_as_events_and_as_requests
emitCommand: test_commands_as_events_and_as_requests
request: test_the_interfaces
request, example: test_images_are_created_changed_listed_read_stopped_and_deleted
asConsumer: test_the_halves_of_the_bus
asProducer: test_the_halves_of_the_bus
destroy: test_the_interfaces
SubscribeOptions: test_the_interfaces
Container interface: test_the_interfaces
container_create_request: test_commands_as_events_and_as_requests
container_create_request, example: test_commands_as_events_and_as_requests
container_get_request: test_commands_as_events_and_as_requests
container_list_request: test_commands_as_events_and_as_requests
Agent interface: test_the_interfaces
AgentLifecycle: test_the_interfaces
message_send_request: test_a_message_with_parts_and_a_longer_time_limit
agent_interrupt_request: test_agents_are_found_listed_interrupted_and_destroyed
agent_get_request: test_agents_are_found_listed_interrupted_and_destroyed
agent_list_request: test_agents_are_found_listed_interrupted_and_destroyed
agent_destroy_request: test_agents_are_found_listed_interrupted_and_destroyed
image_create_request: test_images_are_created_changed_listed_read_stopped_and_deleted
image_run_request: test_agents_are_found_listed_interrupted_and_destroyed
image_stop_request: test_images_are_created_changed_listed_read_stopped_and_deleted
image_update_request: test_images_are_created_changed_listed_read_stopped_and_deleted
image_list_request: test_images_are_created_changed_listed_read_stopped_and_deleted
image_get_request: test_images_are_created_changed_listed_read_stopped_and_deleted
image_delete_request: test_images_are_created_changed_listed_read_stopped_and_deleted
image_messages_request: test_images_are_created_changed_listed_read_stopped_and_deleted
Environment interface: test_an_environment_is_connected_to_a_bus_by_hand
Receptor: test_an_environment_is_connected_to_a_bus_by_hand
Effector: test_an_environment_is_connected_to_a_bus_by_hand
ClaudeEnvironment: test_an_environment_is_connected_to_a_bus_by_hand
EnvironmentFactory: test_the_interfaces
EnvironmentFactory, example: test_a_factory_of_environments_for_testing
LLMProvider: test_create_runtime_with_a_provider_and_a_default_agent
ClaudeLLMConfig: test_create_runtime_with_a_provider_and_a_default_agent
LLMProvider, example: test_create_runtime_with_a_provider_and_a_default_agent
RuntimeEnvironment: (internal there: where Claude's program lies; nothing here starts one)
RuntimeEnvironmentConfig: (as above)
SystemEvent: test_the_interfaces
EventSource: test_the_interfaces
EventCategory: test_the_interfaces
EventIntent: test_the_interfaces
EventContext: test_the_interfaces
text_delta: test_every_event_that_is_documented_happens_with_what_its_handler_reads
message_start: test_every_event_that_is_documented_happens_with_what_its_handler_reads
message_stop: test_every_event_that_is_documented_happens_with_what_its_handler_reads
tool_use_content_block_start: test_every_event_that_is_documented_happens_with_what_its_handler_reads
input_json_delta: test_every_event_that_is_documented_happens_with_what_its_handler_reads
tool_result: test_every_event_that_is_documented_happens_with_what_its_handler_reads
interrupted: test_every_event_that_is_documented_happens_with_what_its_handler_reads
user_message: test_every_event_that_is_documented_happens_with_what_its_handler_reads
assistant_message: test_every_event_that_is_documented_happens_with_what_its_handler_reads
tool_call_message: test_every_event_that_is_documented_happens_with_what_its_handler_reads
error_message: test_every_event_that_is_documented_happens_with_what_its_handler_reads
container_created: test_every_event_that_is_documented_happens_with_what_its_handler_reads
container_destroyed: test_every_event_that_is_documented_happens_with_what_its_handler_reads
agent_registered: test_every_event_that_is_documented_happens_with_what_its_handler_reads
agent_unregistered: test_every_event_that_is_documented_happens_with_what_its_handler_reads
session_resumed: test_every_event_that_is_documented_happens_with_what_its_handler_reads
session_destroyed: test_every_event_that_is_documented_happens_with_what_its_handler_reads
Type Guards: test_type_guards
Complete Example: test_the_complete_example
"""

HISTORY = """
HistoryConfig: test_usage
Usage, network: test_usage
Usage, agent: test_usage_with_an_agent
Server-Authoritative: test_server_authoritative
Client-Authoritative: test_client_authoritative
Explicit threadId: test_how_thread_ids_are_managed
"""

RETAINDB = """
Start Session: test_start_session
Track Events: test_track_events
Idempotent Operations: test_idempotent_operations
Tool Memory Integration: (memory, which is not here yet)
Agent-to-Agent Communication: test_agent_to_agent_communication
Complete Agent Example: test_complete_agent_example
"""


@pytest.mark.parametrize(
    ("blocks", "count", "file"),
    [(AGENTX, 79, "test_agentx.py"), (HISTORY, 6, "test_history.py"), (RETAINDB, 6, "test_retaindb_sessions.py")],
)
def test_every_block_of_a_document_has_a_test(blocks: str, count: int, file: str) -> None:
    there = set(re.findall(r"^(?:async )?def (test_\w+)", (Path(__file__).parent / file).read_text(), re.MULTILINE))
    named = [line.split(": ", 1)[1] for line in blocks.split("\n") if line]
    assert len(named) == count
    assert {one for one in named if not one.startswith("(")} <= there
