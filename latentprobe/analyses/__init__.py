"""Analyses of trajectories; each is one file that opens with its method in numbered steps."""

from latentprobe.analyses.attention import AttentionProfile, attention_profile, image_entropy

__all__ = ["AttentionProfile", "attention_profile", "image_entropy"]
