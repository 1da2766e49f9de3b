"""The organisms' own method: opening marker written for the model, two slots, closing marker."""

from dataclasses import replace

from latentprobe.edits import Knockout
from latentprobe.methods.spec import AnswerSpec, MethodSpec, PromptSpec
from latentprobe.tokens import IMAGE, SLOTS

ORGANISM = MethodSpec(
    name="organism",
    title="organism (shipped with latentprobe)",
    open="<|organism_open|>",
    slot="<|organism_slot|>",
    close="<|organism_close|>",
    requires={"only_slots_see_image": False},
    entry="forced",
    slots=2,
    close_forced=True,
    max_segments=1,
    prompt=PromptSpec(options="none"),
    answer=AnswerSpec("<answer>", "</answer>"),
    notes="options are not shown; the answer is a colour word",
)

MEDIATED = replace(
    ORGANISM,
    name="organism-mediated",
    title="organism with a bottleneck: only slots see the image",
    requires={"only_slots_see_image": True},
    blocked=(Knockout(~(IMAGE | SLOTS), IMAGE, allow_empty=True),),
    notes="every position after the image but the slots is blocked from it, in training and here",
)
