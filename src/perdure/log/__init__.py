"""The append-only log: one sequence of records per session, written by the owner of a run or posted from outside."""
