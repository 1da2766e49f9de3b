"""Conditions: named, hashable recipes of what is taken away from, or put into, a latent span.

Three families, after the paper's decomposition: *structure* (which of slots, markers and format are
there), *content* (what the slots hold), *attention* (which edges are cut). `full` is the method as
published; `full-again` is the same recipe once more, the noise floor of the whole apparatus.

Where a content condition acts matters. `zero`, `mean` and `noise-norm` replace the vector fed back,
in the loop, so that later steps see the replacement: the test most often published. A slot still
re-reads the image in every layer, so these can miss a mechanism; `donor-different-answer` replaces
keys and values at the slots of every layer, which leaves nothing of the slots' own content to be
read.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from latentprobe.edits import Edit, Intervention, Knockout
from latentprobe.errors import EditError, PluginError
from latentprobe.interventions import Bank, mean, noise, resample, zero
from latentprobe.records import content_key
from latentprobe.registry import Registry
from latentprobe.tokens import ANSWER, CLOSE, FORMAT, IMAGE, REASONING, SLOTS
from latentprobe.trajectory import Structure

FED = "latent.hook_fed"
KEYS_AND_VALUES = ("blocks.*.attn.hook_k", "blocks.*.attn.hook_v")
AFTER_SLOTS = CLOSE | REASONING | FORMAT | ANSWER

Content = Literal["zero", "mean", "noise-norm", "donor-different-answer"]


@dataclass(frozen=True)
class Condition:
    """One named recipe.

    Attributes:
        name: Its name, as in tables and on the command line.
        family: `reference`, `structure`, `content` or `attention`.
        recipe: What it does, in words, for tables.
        structure: Which parts of the response are there.
        content: What the slots hold instead of their own, None for their own.
        cuts: Attention edges removed.
        seeds: Number of seeds it is run with (random contents and donors need several).
    """

    name: str
    family: str
    recipe: str
    structure: Structure = Structure()  # noqa: RUF009 - frozen
    content: Content | None = None
    cuts: tuple[Knockout, ...] = ()
    seeds: int = 1

    @property
    def key(self) -> str:
        """Content hash of the recipe (not of its words)."""
        cuts = [f"{cut.label} {cut.layers} {cut.heads}" for cut in self.cuts]
        return content_key(self.name, repr(self.structure), self.content, cuts)

    @property
    def needs_bank(self) -> bool:
        """Whether it uses other problems' activations."""
        return self.content in ("mean", "donor-different-answer")

    def edits(self, bank: Bank | None, donor: str | None) -> tuple[Edit | Knockout, ...]:
        """Return the edits of one trial.

        A response that never entered latent mode leaves them nothing to act on; that is allowed
        here and shows in every row's applied counts.

        Args:
            bank: Activations of other problems; only where `needs_bank`.
            donor: Content hash of the donor problem; only for donor conditions.

        Raises:
            EditError: It needs a bank and there is none, because no response had slots to keep.
        """
        if self.content is None:
            return self.cuts
        at = KEYS_AND_VALUES if self.content == "donor-different-answer" else FED
        do = _content(self.content, bank, donor)
        return (Edit(at, where=SLOTS, do=do, allow_empty=True), *self.cuts)


def _content(content: Content, bank: Bank | None, donor: str | None) -> Intervention:
    if content == "zero":
        return zero()
    if content == "noise-norm":
        return noise(1.0, scale="norm")
    if bank is None:
        raise EditError(
            f"{content} takes what other problems' slots hold, and no `full` response has a slot"
        )
    if content == "mean":
        return mean(bank)
    assert donor is not None, f"{content} needs a donor"
    return resample(bank, donor=donor)


_NO_LATENTS = {"markers": False, "slots": False}
STANDARD = (
    Condition("full", "reference", "the method as published"),
    Condition("full-again", "reference", "the same recipe once more: the noise floor"),
    Condition(
        "plain",
        "structure",
        "no markers, no slots, no answer template",
        Structure(**_NO_LATENTS, template="banned"),
    ),
    Condition(
        "format-only",
        "structure",
        "answer template written, no markers, no slots",
        Structure(**_NO_LATENTS, template="forced"),
    ),
    Condition(
        "markers-only",
        "structure",
        "opening marker, then closing marker at once, no slots",
        Structure(slots=False),
    ),
    Condition("zero", "content", "fed vectors replaced by zeros, in the loop", content="zero"),
    Condition(
        "mean",
        "content",
        "fed vectors replaced by their mean over problems, in the loop",
        content="mean",
    ),
    Condition(
        "noise-norm",
        "content",
        "fed vectors replaced by noise of the same length, in the loop",
        content="noise-norm",
        seeds=3,
    ),
    Condition(
        "donor-different-answer",
        "content",
        "keys and values at the slots of every layer taken from a problem with another answer",
        content="donor-different-answer",
        seeds=3,
    ),
    Condition(
        "cut-slots-image",
        "attention",
        "slots may not attend to the image, in any layer",
        cuts=(Knockout(SLOTS, IMAGE, allow_empty=True),),
    ),
    Condition(
        "cut-answer-slots",
        "attention",
        "nothing after the slots may attend to them, in any layer",
        cuts=(Knockout(AFTER_SLOTS, SLOTS, allow_empty=True),),
    ),
)


def _check(entry: object) -> str | None:
    return (
        None
        if isinstance(entry, Condition)
        else "a condition is a latentprobe.conditions.Condition"
    )


conditions: Registry[Condition] = Registry(
    "condition", group="latentprobe.conditions", check=_check
)
for _condition in STANDARD:
    conditions.register(_condition.name, _condition)


def resolve(names: str | Sequence[str | Condition]) -> tuple[Condition, ...]:
    """Return conditions by name: `standard`, one comma-separated string, or a list.

    `full` is always there, first: everything is compared with it.

    Raises:
        UnknownNameError: No such condition; the nearest names are offered.
    """
    if isinstance(names, str):
        names = [part.strip() for part in names.split(",") if part.strip()]
    chosen: dict[str, Condition] = {"full": conditions.get("full")}
    for item in names:
        if isinstance(item, Condition):
            listed: tuple[Condition, ...] = (item,)
        else:
            listed = STANDARD if item == "standard" else (conditions.get(item),)
        for condition in listed:
            if chosen.setdefault(condition.name, condition) != condition:
                raise PluginError(f"two conditions are called {condition.name!r}; rename one")
    return tuple(chosen.values())
