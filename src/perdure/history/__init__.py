"""What shapes a conversation before a model sees it: processors, which are ready-made hooks.

    agent = Agent("A", hooks=[drop_tool_chatter(), fit_tokens(8_000)])

They change what is sent, never what is stored.
"""
