"""Figures from results: pandas frames in, plotly figures out, no torch anywhere.

A plot never computes a result. What it draws was estimated upstream, so every figure can be drawn
again on a laptop from stored rows alone.
"""

from latentprobe.plots.attention import narrowness_by_layer
from latentprobe.plots.conditions import accuracy_by_condition
from latentprobe.plots.maps import AttentionMap, attention_maps_by_layer, attention_over_image
from latentprobe.plots.theme import TEMPLATE
from latentprobe.plots.tokens import token_strip_html

__all__ = [
    "TEMPLATE",
    "AttentionMap",
    "accuracy_by_condition",
    "attention_maps_by_layer",
    "attention_over_image",
    "narrowness_by_layer",
    "token_strip_html",
]
