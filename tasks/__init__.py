"""One module per stage: open stores, call :mod:`dsrg`, write, report.

Stages never import each other. What they share: :mod:`tasks.params` (what to do),
:mod:`tasks.workspace` (where files lie, and how they appear whole or not at all),
:mod:`tasks.shards` (work spread over processes), :mod:`tasks.console` (what a person sees),
:mod:`tasks.tracking` (MLflow) and :mod:`tasks.errors`.
"""

import os

# Threads that spin while they wait for a core cost a training step up to five times its time as soon
# as anything else runs beside it (the loader does). Read by OpenMP when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
