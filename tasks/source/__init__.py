"""Rows of a dataset, read as a stream and turned into two prompts each.

A file becomes rows (`readers`), a row an example (`formats`), an example two prompts (`rows`). It imports the prompt
templates of `sampling`, and nothing of the run that asks for the rows.
"""
