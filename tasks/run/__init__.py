"""The state of a run on disk: its identity, folder, lock, plan, shards' parts, claims, heartbeats.

It knows how rows are planned (`tasks.source`) and stored (`tasks.store`), and nothing of engines or publishing.
"""
