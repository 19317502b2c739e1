"""The demo: two tiny models that solve arithmetic word problems, and how they were trained.

It runs the flow `produce` like any user; `flows.cli` imports it for the commands `demo`, `bench` and `doctor`.
"""
