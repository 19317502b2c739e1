"""Models that run in worker processes, one per GPU, driven by the lockstep engine.

Only `sampling.loading` imports this room; it imports `sampling.engine` for the engine that each worker loads.
"""
