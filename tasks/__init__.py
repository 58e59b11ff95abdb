"""One module per stage: open stores, call :mod:`dsrg`, write, report.

Stages never import each other. What they share: :mod:`tasks.params` (what to do),
:mod:`tasks.workspace` (where files lie, and how they appear whole or not at all),
:mod:`tasks.shards` (work spread over processes), :mod:`tasks.console` (what a person sees),
:mod:`tasks.tracking` (MLflow) and :mod:`tasks.errors`.
"""
