"""A chat in the terminal by the runtime's bus: an image, its events as they come, and a line at a time.

    python examples/chat.py                    # type; "exit" or the end of the input ends it
    python examples/chat.py chat.db            # keeps the conversation in chat.db, and goes on with it

Kill it where you like, and start it again with the same file: what was asked is answered, once. It needs no key:
without ANTHROPIC_API_KEY a model that only quotes answers.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from pathlib import Path

from perdure import Runtime
from perdure.types.envelope import SystemEvent


def show(event: SystemEvent) -> None:
    """Write what the bus tells of an answer."""
    if event.type == "text_delta":
        print(event.data["text"], end="", flush=True)
    elif event.type == "message_stop":
        print("\n--- Message complete ---")
    else:
        print("Error:", event.data["content"])


async def main(folder: Path, store: str) -> None:
    """Talk until the input ends."""
    runtime = Runtime(
        f"sqlite:///{folder / store}",
        model="anthropic:claude-sonnet-4-5" if "ANTHROPIC_API_KEY" in os.environ else "offline",
        base_path=folder,
        default_agent={"name": "Assistant", "system_prompt": "You are a helpful AI assistant."},
    )
    async with runtime:
        await runtime.request("container_create_request", {"container_id": "default"})
        known = (await runtime.request("image_list_request", {"container_id": "default"})).data["records"]
        if known:
            image_id = known[0]["image_id"]
            messages = (await runtime.request("image_messages_request", {"image_id": image_id})).data["messages"]
            print(f"{known[0]['name']}: {len(messages)} messages so far")
        else:
            created = await runtime.request(
                "image_create_request", {"container_id": "default", "config": {"name": "My Chat"}}
            )
            record = created.data["record"]
            assert record is not None, created.data
            image_id = record["image_id"]

        runtime.on(["text_delta", "message_stop", "error_message"], show)
        while (line := (await asyncio.to_thread(sys.stdin.readline)).strip()) and line.lower() != "exit":
            async with runtime.bus.stream("turn_response") as turns:
                sent = await runtime.request("message_send_request", {"image_id": image_id, "content": line})
                if "error" in sent.data:
                    print("Error:", sent.data["error"])
                    continue
                async for turn in turns:  # an answer that a process which was killed had begun may come first
                    if turn.data["message_id"] == sent.data.get("message_id"):
                        break


if __name__ == "__main__":
    if len(sys.argv) > 1:
        path = Path(sys.argv[1]).absolute()
        asyncio.run(main(path.parent, path.name))
    else:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder), "chat.db"))
