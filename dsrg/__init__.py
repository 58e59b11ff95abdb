"""Weakly supervised semantic segmentation by Deep Seeded Region Growing (DSRG).

This package computes: arrays in, arrays out. It knows nothing of Prefect, MLflow, DVC,
``params.yaml`` or the current directory. Read :mod:`dsrg.growing` for the idea,
:mod:`dsrg.losses` for what the network learns from, :mod:`dsrg.training` for how.
"""

__version__ = "0.1.0"
