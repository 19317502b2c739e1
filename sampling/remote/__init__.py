"""Models that live in worker processes of their own, one process a GPU."""
