"""The Prefect flows, one a file, which prefect.yaml names as deployments; `run` holds what `produce` opens and locks.

A flow imports `flows.orchestration`, the adapter to Prefect, and `tasks`, the work. Only `flows.cli` and `flows.demo`
import a flow.
"""
