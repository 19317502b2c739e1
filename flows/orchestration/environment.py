"""Default environment variables: of the libraries, which read them when they are imported, and of deployments' runs.

Import this module before Prefect, Great Expectations, datasets or vLLM. Variables that are set already stay.
"""

import os

import sampling.environment  # noqa: F401  (vLLM's part)
from sampling.permissions import CODE

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",  # 20 s, the default, is too short on two cores
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "GX_ANALYTICS_ENABLED": "false",
}

for _name, _value in DEFAULTS.items():
    os.environ.setdefault(_name, _value)


def limit_deployment() -> None:
    """Forbid code that a configuration names in this run and its children, if it is a deployment's; CODE may be set."""
    from prefect.runtime import deployment

    if deployment.id is not None and not os.environ.get(CODE, "").strip():
        os.environ[CODE] = "0"
