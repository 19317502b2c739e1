"""The prompts of a row: templates, the process that renders them in a Jinja sandbox, their token ids.

`sampling`, `tasks` and `flows` import it; it imports the errors, the bounds and `sampling.processes`.
"""
