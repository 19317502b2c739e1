"""The pipeline's work between rows and a published dataset, and its configuration.

The folders follow a row's way: `source`, `run`, `worker`, `publish`; all of them write through `store`. They import
`sampling` and `validations`, and never `flows`.
"""
