"""The snippets of AgentKit's documents, translated to Python: each is a test named after its heading, and each runs.

Definitions name the providers of the documents; the runs get `model=ScriptedModel(…)`, which wins over them.

Not here yet, because they need what comes with later issues:

- History: `HistoryConfig` and its adapters (`create_thread`, `get`, `append_user_message`, `append_results`), the
  server-authoritative and hybrid patterns, and thread ids that are created or generated: they come with history.
- Memory tools that answer before they have written (`step.sendEvent` to an `inngest.createFunction`), and Mem0: they
  come with durable events and memory. The patterns around them are here, over a plain list.
"""
