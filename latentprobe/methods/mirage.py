"""Mirage (arXiv 2506.17218): slots until the model predicts the end, at most eight."""

from latentprobe.methods.spec import AnswerSpec, MethodSpec, PromptSpec

MIRAGE = MethodSpec(
    name="mirage",
    title="Mirage (arXiv 2506.17218)",
    open="<|latent_start|>",
    slot="<|latent_pad|>",
    close="<|latent_end|>",
    config_keys={"latent_start_id": "open", "latent_token_id": "slot", "latent_end_id": "close"},
    slots=8,
    end="predicted",
    close_forced=True,
    max_segments=1,
    prompt=PromptSpec(assistant="<|im_start|>assistant"),
    answer=AnswerSpec("\\boxed{", "}"),
    notes="before each slot the model is asked for the end, after eight it is forced; one segment "
    "is the limit, since the published loop never leaves a second one; its prompt opens the "
    "assistant turn without a newline; published runs sample (temperature 0.7, top-p 0.9). ILVR "
    "checkpoints carry the same tokens and are recognised as this: give max_segments=None for them",
)
