"""Databases: SQLite and PostgreSQL behind one protocol.

What is to be done in a transaction is a script: a generator that yields statements and is sent their rows. A script
does no input or output of its own, so the same one runs on the SQLite writer thread and on a PostgreSQL connection.
"""
