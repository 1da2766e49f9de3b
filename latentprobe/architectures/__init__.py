"""Hugging Face module paths <-> hook points, one table per architecture."""

from latentprobe.architectures.architecture import Architecture, Encoded, Site, architectures

names, get, register = architectures.names, architectures.get, architectures.register

__all__ = ["Architecture", "Encoded", "Site", "architectures", "get", "names", "register"]
