"""The Prefect flows, one a file, and what starts them.

A flow imports `flows.orchestration` for Prefect's own matters and `tasks` for the work; nothing but `flows.cli` and
`flows.demo` imports a flow. Deployments name these files (prefect.yaml).
"""
