"""The command line: `perdure demo` answers a question about files, `perdure chat` is the same as a conversation."""
