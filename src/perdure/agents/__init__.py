"""Agents, tools, networks and routers: what a developer writes, and the two loops that run it.

A definition (`Agent`, `Tool`, `Network`) is an immutable value. A run of one is a program: a pure fold over records
(`agent_loop`, `network_loop`) with one impure door that performs a step (`infer`, `call_tools`, `route`). The doors
`run, start, stream, run_sync` put a program on a kernel and hand out its result.
"""
