"""A row's two prompts: templates, the sandbox that they are rendered in, their tokens.

`sampling` and `tasks.source` import it; it imports the errors alone.
"""
