"""The adapter between a run and Prefect: sampling runs, cancellation, artifacts, assets, events, secrets, server.

The flows and the command line import it. It imports `tasks` and `sampling`, and neither a flow nor the command line.
"""
