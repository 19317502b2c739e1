"""The `bench` command: speed of each model alone, of both in lockstep, of both served, measured in one run.

Every measurement is a process of its own (`measure`); only `flows.cli` imports this folder.
"""
