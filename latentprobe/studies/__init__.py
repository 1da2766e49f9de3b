"""Whole experiments: the conditions of a study, its trials, and what they add up to."""
