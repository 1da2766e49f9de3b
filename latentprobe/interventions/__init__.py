"""Interventions: arithmetic on activations, by function or by name."""

from latentprobe.interventions.bank import Bank
from latentprobe.interventions.content import mean, noise, patch, resample, zero
from latentprobe.interventions.registry import intervention, interventions

names, get, register = interventions.names, interventions.get, interventions.register

__all__ = [
    "Bank",
    "get",
    "intervention",
    "interventions",
    "mean",
    "names",
    "noise",
    "patch",
    "register",
    "resample",
    "zero",
]
