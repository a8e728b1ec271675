"""Where runs are kept: a log, the definitions by name, and the workers that drive what is open.

A `Runtime` is one process's door to a store. It accepts runs, drives them, takes over what dead processes left open,
and reads back what was said. A `Container` is a tenant: the same verbs, and nothing crosses. A `Session` is one
conversation with its log.
"""
