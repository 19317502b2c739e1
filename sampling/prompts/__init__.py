"""The prompts of a row: templates, the Jinja sandbox that renders them, their token ids.

`sampling` and `tasks.source` import it; it imports only the errors.
"""
