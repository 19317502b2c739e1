"""Dataset loading: streams source rows and renders two prompts for each.

Files are parsed into rows (`readers`), rows converted to examples (`formats`), examples rendered as prompts (`rows`).
It imports the prompt templates of `sampling` and nothing of a run.
"""
