"""Qwen2.5-VL: M-RoPE, grouped-query attention, merged image patches."""

from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from latentprobe.architectures.architecture import Architecture, Encoded, Site
from latentprobe.errors import ModelError


def encode(
    model: Any,
    token_ids: Int[Tensor, " pos"],
    pixel_values: Float[Tensor, "patch features"] | None,
    grid: Int[Tensor, "image 3"] | None,
) -> Encoded:
    """Run the vision tower and lay its features and M-RoPE positions into the prompt.

    Args:
        model: A `Qwen2_5_VLForConditionalGeneration`.
        token_ids: Prompt ids; one image token per merged patch.
        pixel_values: Flattened patches of all images, as the image processor gives them; None
            without images.
        grid: (time, height, width) of each image in unmerged patches; None without images.

    Raises:
        ModelError: The prompt's image tokens and the images' merged patches differ in number.
    """
    inner = model.model
    is_image = token_ids == model.config.image_token_id
    embeds = inner.language_model.embed_tokens(token_ids)
    merge = inner.visual.spatial_merge_size
    sizes = [] if grid is None else [(int(h) // merge, int(w) // merge) for _, h, w in grid]
    expected = sum(rows * columns for rows, columns in sizes)
    if int(is_image.sum()) != expected:
        raise ModelError(
            f"the prompt has {int(is_image.sum())} image tokens, but its images have {expected} "
            "merged patches; write one image token per merged patch"
        )
    if pixel_values is not None and grid is not None:
        features = torch.cat(list(inner.get_image_features(pixel_values, grid).pooler_output))
        embeds = embeds.masked_scatter(is_image[:, None], features.to(embeds.dtype))
    rotary, _ = inner.get_rope_index(
        token_ids[None], mm_token_type_ids=is_image[None].int(), image_grid_thw=grid
    )
    rotary = rearrange(rotary, "three 1 pos -> three pos")
    offset = int(rotary.max()) + 1 - len(token_ids)
    return Encoded(embeds, rotary, offset, tuple(sizes))


QWEN2_5_VL = Architecture(
    name="qwen2_5_vl",
    model_types=("qwen2_5_vl",),
    decoder="model.language_model",
    layers="layers",
    embedding="embed_tokens",
    unembedding="lm_head",
    sites={
        "hook_resid_pre": Site("", "input"),
        "attn.hook_q": Site("self_attn.q_proj", "output", heads="query"),
        "attn.hook_k": Site("self_attn.k_proj", "output", heads="key_value"),
        "attn.hook_v": Site("self_attn.v_proj", "output", heads="key_value"),
        "attn.hook_pattern": Site("self_attn", "pattern", heads="query"),
        "attn.hook_z": Site("self_attn.o_proj", "input", heads="query"),
        "hook_attn_out": Site("self_attn", "output", item=0),
        "hook_resid_mid": Site("post_attention_layernorm", "input", shared=True),
        "hook_mlp_out": Site("mlp", "output"),
        "hook_resid_post": Site("", "output"),
    },
    encode=encode,
    image_token="image_token_id",
    rotary_axes=3,
)
