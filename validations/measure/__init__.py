"""Metrics of a dataset, computed in one streaming pass, of each row and of the whole.

`scan` is the entry. It imports the record schema of `sampling` alone; the gate and `tasks` import it.
"""
