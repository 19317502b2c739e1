"""What is measured of a dataset in one streaming pass, row by row and as a whole.

`scan` is the entry. It imports the record schema of `sampling` alone; the gate and `tasks` import it.
"""
