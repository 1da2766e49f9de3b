"""The glossary of tensor axes: the same words in types, hook points, comments and on plots."""

AXES = {
    "batch": "independent sequences run side by side",
    "pos": "a position of the sequence, counted from 0, prompt and image tokens included",
    "slot": "a latent position, in order of the sequence, all segments",
    "layer": "a decoder block, counted from 0",
    "head": "a query head, counted from 0 (grouped key-value heads are expanded)",
    "query": "a position that attends",
    "key": "a position attended to",
    "d_model": "width of the residual stream",
    "d_head": "width of one attention head",
    "vocab": "an entry of the vocabulary",
}
