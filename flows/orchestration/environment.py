"""Default environment variables of the libraries, which read them when they are imported.

Import this module before Prefect, Great Expectations, datasets or vLLM. Variables that are set already stay.
"""

import os

import sampling.environment  # noqa: F401  (vLLM's part)

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
