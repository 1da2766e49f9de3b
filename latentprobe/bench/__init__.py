"""Benchmarks of what the docs claim, each beside its peers in one run."""
