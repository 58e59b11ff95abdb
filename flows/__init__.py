"""What happens, in which order: read :mod:`flows.pipeline` first.

Importing this package sets how Prefect and DVC behave for us, unless the user already chose: no
telemetry, and time enough for a first start of Prefect's temporary server on a busy machine.
"""

import os

STARTUP_SECONDS = 600.0

_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": f"{STARTUP_SECONDS:.0f}",
}
for _name, _value in _DEFAULTS.items():
    os.environ.setdefault(_name, _value)
