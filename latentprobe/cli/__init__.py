"""The commands: arguments in, results out, no logic."""

from latentprobe.cli.app import main

__all__ = ["main"]
