"""Hugging Face module paths <-> hook points, one table per architecture."""

from latentprobe.architectures.architecture import Architecture, Encoded, Site, architectures

__all__ = ["Architecture", "Encoded", "Site", "architectures"]
