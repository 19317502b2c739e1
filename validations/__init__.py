"""The gate: Great Expectations over a dataset's metrics, with the limits that it is held to.

`gate` is the entry, `limits` and `suites` say what is checked. It imports `measure`; `report` shows its verdict.
"""
