"""The snippets of the source documents, translated to Python: each is a test named after its heading, and each runs.

Definitions name the providers of the documents; the runs get `model=ScriptedModel(…)`, which wins over them. Which
block of the AgentX, history and RetainDB documents is which test is in `test_blocks.py`. What needs the memory (its
tools over a store, Mem0, `client.memory.add`) comes with it; the patterns around it are here, over a plain list.
"""
