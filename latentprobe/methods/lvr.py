"""LVR (arXiv 2509.24251): a fixed number of steps, argmax ids in the span, no forced end."""

from latentprobe.methods.spec import AnswerSpec, MethodSpec, PromptSpec

LVR = MethodSpec(
    name="lvr",
    title='LVR, "steps" decoding (arXiv 2509.24251)',
    open="<|lvr_start|>",
    slot="<|lvr|>",
    close="<|lvr_end|>",
    config_keys={"lvr_start_id": "open", "lvr_id": "slot", "lvr_end_id": "close"},
    requires={"lvr_head": False},
    slots=8,
    ids="argmax",
    prompt=PromptSpec(
        suffix="\nAnswer with the option's letter from the given choices directly.",
    ),
    answer=AnswerSpec("<answer>", "</answer>", lead=" "),
    notes="trained with one slot per region token, run with a fixed 4, 8 or 16; checkpoints with "
    "an lvr_head need their head as feedback and are not recognised",
)
