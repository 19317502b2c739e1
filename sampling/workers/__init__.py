"""Models on GPUs of their own, each in worker processes that lockstep drives.

Only `sampling.loading` imports it; it imports `sampling.engine` for the engine that each worker loads.
"""
