"""Ways to run a model under edits; concrete backends are reached through the registry only."""

from latentprobe.backends.backend import Backend, Chunk, Plan, Session, backends

names, get, register = backends.names, backends.get, backends.register

__all__ = ["Backend", "Chunk", "Plan", "Session", "backends", "get", "names", "register"]
