"""The demo: two tiny models that solve arithmetic word problems, with the script that trained them.

It runs the flow `produce` as a user would; `flows.cli` imports it for the commands `demo`, `bench` and `doctor`.
"""
