"""What a run has to do with Prefect: fan-out, cancellation, artifacts, assets, events, progress, secrets, its server.

The flows import it; it imports `tasks` and `sampling`, and never a flow or the command line.
"""
