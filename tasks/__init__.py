"""Prefect tasks that turn rows of a dataset into a published dataset of dual samples."""
