"""Sampling of shards: the engine's process, the Prefect task of one shard, the early quality check.

Imports `tasks.run` for the files of a run and `sampling` for the engine; the flows and `tasks.publish` import it.
"""
