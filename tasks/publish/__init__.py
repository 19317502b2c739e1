"""The publication of a finished run's dataset: staging, quality gate, documents, rename; opening of published ones.

Imports `tasks.run`, `tasks.worker` and `validations`; the flows import it. `hub` uploads a published dataset to the
Hugging Face Hub.
"""
