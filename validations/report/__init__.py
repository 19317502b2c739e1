"""HTML report of a verdict: plots, sample rows, provenance, and Great Expectations' Data Docs.

`page` and `data_docs` are its entries, which `tasks.publish` and the flows import. It imports the verdict.
"""
