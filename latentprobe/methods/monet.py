"""Monet (arXiv 2511.21395): its runner overwrites the opening marker's own embedding."""

from latentprobe.methods.spec import AnswerSpec, MethodSpec, PromptSpec

MONET = MethodSpec(
    name="monet",
    title="Monet, as its vLLM runner decodes (arXiv 2511.21395)",
    open="<abs_vis_token>",
    slot="<abs_vis_token_pad>",
    close="</abs_vis_token>",
    config_keys={"latent_start_id": "open", "latent_token_id": "slot", "latent_end_id": "close"},
    first_latent="at_open",
    slots=10,
    close_forced=True,
    ids="argmax",
    prompt=PromptSpec(
        image_first=False,
        suffix="\nPut your final answer in \\boxed{}.",
    ),
    answer=AnswerSpec("\\boxed{", "}"),
    notes="ten overridden inputs: the opening marker's position and nine more, so that the first "
    "slot stands where the marker's id is; first_latent='after_open' with ten slots is the other "
    "published reading",
)
