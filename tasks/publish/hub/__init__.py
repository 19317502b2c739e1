"""The upload of a published dataset to the Hugging Face Hub.

Imports `tasks.publish` for the files of a dataset; only the flow `publish` imports it.
"""
