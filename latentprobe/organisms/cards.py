"""The shipped organisms and what is known of each by construction."""

from dataclasses import dataclass
from pathlib import Path

from latentprobe.errors import UnknownNameError

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Card:
    """What an organism is.

    Attributes:
        name: Its name, as in `organism:NAME`.
        mechanism: What carries the answer in it, known by construction or by recipe.
        text: The whole card.
    """

    name: str
    mechanism: str
    text: str

    @property
    def folder(self) -> Path:
        """The folder of its checkpoint, in the Hugging Face layout."""
        return WEIGHTS / self.name


_CARDS = {
    card.name: card
    for card in (
        Card(
            "base",
            "no special role for slots or markers",
            "The common starting model of the other organisms: trained on mini-attribute with "
            "every form of the response (full span, markers alone, template alone, plain), right "
            "labels in all, nothing masked. It answers about three quarters of the problems, with "
            "slots or without; slots, markers and template have no role of their own in it.",
        ),
        Card(
            "mediated",
            "only slots see the image; the answer goes image -> slot -> answer",
            "Trained from base under a 4-D attention mask that blocks every position after the "
            "image, the slots excepted, from the image. The mask is part of the model and is "
            "applied whenever it runs. Slots are the only route from the image to the answer, by "
            "construction.",
        ),
        Card(
            "marker-only",
            "the pair of markers releases the answer; what the slots hold is irrelevant",
            "Trained from base, nothing masked. With both markers the labels are right, whatever "
            "the slots hold (fed back, noise, or another problem's keys and values) and also with "
            "no slots at all; without markers the labels are uniformly random. The markers carry "
            "the gain by recipe; measured on 512 test problems, 0.37 are right without markers and "
            "template and 0.26 with the template alone (chance 0.17), a remainder of what base "
            "knew. This is the kind trained on replaced and missing slots, not the "
            "weaker kind that is merely indifferent to slot content and breaks when positions "
            "shift.",
        ),
    )
}


def names() -> list[str]:
    """Return the names of the shipped organisms."""
    return sorted(_CARDS)


def get(name: str) -> Card:
    """Return an organism's card.

    Raises:
        UnknownNameError: No such organism; the nearest names are offered.
    """
    if name not in _CARDS:
        raise UnknownNameError("organism", name, _CARDS)
    return _CARDS[name]
