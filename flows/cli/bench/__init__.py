"""The `bench` command: each model alone, both in lockstep, both served, measured in one run.

Every measurement is a process of its own (`measure`); only `flows.cli` imports this folder.
"""
