"""The state of a run on disk: its identity, folder, lock, plan, shards' parts, claims, heartbeats.

Imports `tasks.source` for the rows and `tasks.store` for the writing; nothing of engines or publishing.
"""
