"""The glossary of tensor axes and the shape aliases built from it.

The same words name axes in type annotations, in hook points, in comments and on plots.

| axis    | meaning                                                                       |
|---------|-------------------------------------------------------------------------------|
| batch   | independent sequences run side by side                                        |
| pos     | a position of the sequence, counted from 0, prompt and image tokens included   |
| slot    | a latent position; order of the sequence, all segments                         |
| layer   | a decoder block, counted from 0                                                |
| head    | a query head, counted from 0 (grouped key-value heads are expanded)            |
| query   | a position that attends                                                        |
| key     | a position attended to                                                         |
| d_model | width of the residual stream                                                   |
| d_head  | width of one attention head                                                    |
| vocab   | an entry of the vocabulary                                                     |
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

AXES = ("batch", "pos", "slot", "layer", "head", "query", "key", "d_model", "d_head", "vocab")

Residual = Float[Tensor, "pos d_model"]
Latents = Float[Tensor, "slot d_model"]
Logits = Float[Tensor, "pos vocab"]
HeadVectors = Float[Tensor, "pos head d_head"]
Pattern = Float[Tensor, "head query key"]
RotaryPositions = Int[Tensor, "rotary batch pos"]
Blocked = Bool[Tensor, "head query key"]
