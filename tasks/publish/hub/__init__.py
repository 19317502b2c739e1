"""A published dataset's way to the Hugging Face Hub.

Only the flow `publish` imports it; it imports `tasks.publish` for what a dataset consists of.
"""
