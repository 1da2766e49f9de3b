"""Interventions: arithmetic on activations, by function or by name."""

from latentprobe.interventions.bank import Bank
from latentprobe.interventions.content import mean, noise, patch, resample, zero
from latentprobe.interventions.registry import intervention, interventions

__all__ = [
    "Bank",
    "intervention",
    "interventions",
    "mean",
    "noise",
    "patch",
    "resample",
    "zero",
]
