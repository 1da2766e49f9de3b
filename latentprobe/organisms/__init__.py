"""Small models of the real architecture whose mechanism is known; they ship with the package."""

from latentprobe.organisms.cards import Card, get, names

__all__ = ["Card", "get", "names"]
