"""The sampling of shards: the engine in a child process, one Prefect task a shard, the early gate.

It imports `tasks.run` for what is on disk and `sampling` for the engine; the flows and `tasks.publish` import it.
"""
