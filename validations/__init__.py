"""Gate of a dataset: Great Expectations over its metrics, with a limit for each check.

`gate` is the entry; `suites` and `limits` define the checks. It imports `measure`; `report` renders its verdict.
"""
