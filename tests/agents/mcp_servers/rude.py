"""A server that speaks the protocol by hand, to do what the SDK does not let a server do: see `main`."""

import json
import os
import signal
import sys
from typing import Any

MODE = sys.argv[1]
ODD_SCHEMAS: dict[str, Any] = {
    "no_type": {"properties": {"a": {"type": "string"}}},
    "dialect": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {}},
    "choice": {
        "anyOf": [
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
            {"type": "object", "properties": {"b": {"type": "integer"}}, "required": ["b"]},
        ]
    },
    "nothing": {},
    "null": None,
    "clash": {"type": "object", "properties": {"ctx": {"type": "string"}, "arguments": {"type": "string"}}},
}
NAMES = ["with.dots/and spaces", "with.dots/and_spaces", "a" * 80, "größe", "plain"]


def tools(cursor: str | None) -> dict[str, Any]:
    if MODE == "schemas":
        found = [{"name": name, "inputSchema": schema} for name, schema in ODD_SCHEMAS.items()]
        found.append({"name": "missing"})
        found.append({"name": "bad_output", "inputSchema": {"type": "object"}, "outputSchema": {"anyOf": []}})
        return {"tools": found}
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    if MODE == "names":
        return {"tools": [{"name": name, "inputSchema": schema} for name in (*NAMES, "plain")]}
    if MODE == "pages":
        page = int(cursor or 0)
        listed = [{"name": f"tool_{page}_{n}", "inputSchema": schema} for n in range(2)]
        return {"tools": listed, **({"nextCursor": str(page + 1)} if page < 3 else {})}
    if MODE == "endless":
        return {"tools": [{"name": "one", "inputSchema": schema}], "nextCursor": "again"}
    able = ("change", "refuse", "own_code", "shout", "leave", "echo")
    found = [{"name": name, "inputSchema": schema} for name in able]
    if STATE["changed"]:
        found.append({"name": "grown", "inputSchema": schema})
    return {"tools": found}


STATE = {"changed": False, "lists": 0}


def send(message: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def call(id: Any, params: dict[str, Any]) -> None:
    name = params["name"]
    if "RUDE_CALLS" in os.environ:
        with open(os.environ["RUDE_CALLS"], "a", encoding="utf-8") as calls:
            calls.write(f"{name}\n")
    if name == "change":
        STATE["changed"] = True
        send({"method": "notifications/tools/list_changed"})
    if name == "refuse":
        send({"id": id, "error": {"code": -32602, "message": "the text is too short"}})
    elif name == "own_code":
        send({"id": id, "error": {"code": -32000, "message": "the printer is out of paper"}})
    elif name == "shout":
        sys.stderr.write("x" * 2_000_000 + " was shouted\n")
        sys.stderr.flush()
        send({"id": id, "result": {"content": []}})
    elif name == "leave":
        sys.stderr.write("goodbye\n")
        sys.stderr.flush()
        os._exit(6)
    elif name == "bad_output":
        send({"id": id, "result": {"content": [], "structuredContent": {"any": "thing"}}})
    else:
        text = json.dumps({"name": name, "arguments": params.get("arguments"), "lists": STATE["lists"]})
        send({"id": id, "result": {"content": [{"type": "text", "text": text}]}})


def main() -> None:
    if "RUDE_PIDS" in os.environ:
        with open(os.environ["RUDE_PIDS"], "a", encoding="utf-8") as pids:
            pids.write(f"{os.getpid()}\n")
    if MODE == "breaks":
        print(f"cannot open the database with {os.environ.get('RUDE_KEY')}", file=sys.stderr)
        sys.exit(4)
    for line in sys.stdin:
        message = json.loads(line)
        method, id = message.get("method"), message.get("id")
        if id is None or MODE == "silent":
            continue
        if method == "initialize":
            version = message["params"]["protocolVersion"]
            able = {"tools": {"listChanged": True}}
            info = {"name": "rude", "version": "1"}
            send({"id": id, "result": {"protocolVersion": version, "capabilities": able, "serverInfo": info}})
        elif method == "tools/list":
            STATE["lists"] += 1
            if MODE == "hangs":
                continue
            if MODE == "toolless":
                send({"id": id, "error": {"code": -32601, "message": "no such method"}})
                continue
            if MODE == "dies" and not os.path.exists(sys.argv[2]):
                with open(sys.argv[2], "w", encoding="utf-8") as note:
                    note.write("died once")
                os._exit(5)
            send({"id": id, "result": tools((message.get("params") or {}).get("cursor"))})
        elif method == "tools/call":
            call(id, message["params"])
        else:
            send({"id": id, "error": {"code": -32601, "message": "no such method"}})
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        while True:
            signal.pause()


main()
