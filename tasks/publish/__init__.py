"""A finished run's way to a published dataset: staged, judged, described, renamed into place.

It imports `tasks.run`, `tasks.worker` and `validations`; the flows import it. `hub` brings a published dataset to the
Hugging Face Hub.
"""
