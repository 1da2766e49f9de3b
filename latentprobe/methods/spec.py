"""A latent-reasoning method as a table: how it enters, fills and leaves latent mode.

One decode loop (`generation.py`) is driven by a frozen `MethodSpec`. A published method is one
small file with one such table; nothing in the loop knows a method by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from latentprobe.edits import Knockout
from latentprobe.registry import Registry


@dataclass(frozen=True)
class PromptSpec:
    """How a problem becomes a chat.

    Attributes:
        system: System message; None leaves the chat template's default.
        image_first: Images before the text of the user turn, or after it.
        options: How options are written under the question: `letters` ("A. red", the answer is a
            letter) or `none` (options are not shown, the answer is an option's text).
        suffix: Text added at the end of the user turn.
        assistant: What opens the assistant turn; None takes the chat template's own opening.
    """

    system: str | None = None
    image_first: bool = True
    options: Literal["letters", "none"] = "letters"
    suffix: str = ""
    assistant: str | None = None


@dataclass(frozen=True)
class AnswerSpec:
    r"""Where the answer stands in the response: between `open` and `close`, the last such span.

    Attributes:
        open: Text right before the answer ("<answer>", "\\boxed{").
        close: Text right after it.
        lead: What the method writes between `open` and the answer itself, such as a space.
    """

    open: str
    close: str
    lead: str = ""


@dataclass(frozen=True)
class MethodSpec:
    """How one published family enters, fills and leaves latent mode.

    Attributes:
        name: Name in the registry.
        title: Name for people, with the source.
        open: String of the opening marker.
        slot: String of the slot token.
        close: String of the closing marker.
        config_keys: Config key -> "open", "slot" or "close": ids a checkpoint of this method
            writes into its config, checked against the tokenizer's.
        requires: Config entries that must hold for the method to be recognised; an absent entry
            counts as False.
        entry: `predicted` (the model decides to open) or `forced` (the response starts with the
            opening marker).
        first_latent: `after_open` (the marker is embedded; its state is the first latent) or
            `at_open` (the state that predicted the marker replaces the marker's own embedding).
        slots: Number of slots in a segment, or its cap.
        end: `fixed` (exactly `slots`) or `predicted` (before each slot the model is asked; when it
            predicts the closing marker the span ends, after `slots` at the latest).
        close_forced: Whether the closing marker is written after a full segment without asking.
        max_segments: Most segments in one response; None for no limit.
        ids: What stands in the sequence of ids at slots: the `slot` token, or the `argmax` of the
            logits.
        feedback: Name of the map from state to fed vector: `identity` (the state after the final
            norm, as it is).
        blocked: Attention edges the model itself is built without (an organism's mask).
        prompt: How a problem becomes a chat.
        answer: Where the answer stands in the response.
        notes: What a reader of results must know about this method.
    """

    name: str
    title: str
    open: str
    slot: str
    close: str
    config_keys: Mapping[str, Literal["open", "slot", "close"]] = field(default_factory=dict)
    requires: Mapping[str, Any] = field(default_factory=dict)
    entry: Literal["predicted", "forced"] = "predicted"
    first_latent: Literal["after_open", "at_open"] = "after_open"
    slots: int = 8
    end: Literal["fixed", "predicted"] = "fixed"
    close_forced: bool = False
    max_segments: int | None = None
    ids: Literal["slot", "argmax"] = "slot"
    feedback: Literal["identity"] = "identity"
    blocked: tuple[Knockout, ...] = ()
    prompt: PromptSpec = PromptSpec()
    answer: AnswerSpec = AnswerSpec("<answer>", "</answer>")
    notes: str = ""

    @property
    def tokens(self) -> tuple[str, str, str]:
        """The three token strings that must be in a tokenizer: open, slot, close."""
        return self.open, self.slot, self.close

    def describe(self) -> dict[str, str]:
        """Return the method card: what happens at each point of a latent span, in words."""
        entry = {
            "predicted": "the model predicts the opening marker",
            "forced": "the response is made to start with the opening marker",
        }
        first = {
            "after_open": "the state at the opening marker becomes the first slot's input",
            "at_open": "the state that predicted the opening marker replaces its embedding",
        }
        end = {
            "fixed": f"exactly {self.slots} slots",
            "predicted": f"until the model predicts the closing marker, at most {self.slots} slots",
        }
        forced = "written without asking" if self.close_forced else "left to the model"
        ids = {"slot": f"the slot token {self.slot}", "argmax": "the likeliest ordinary token"}
        blocked = "; ".join(f"{k.queries} may not see {k.keys}" for k in self.blocked)
        return {
            "method": self.title,
            "markers": f"{self.open} ... {self.close}",
            "entry": entry[self.entry],
            "first latent": first[self.first_latent],
            "count": end[self.end],
            "closing marker": forced,
            "ids in the span": ids[self.ids],
            "fed back": "the last hidden state after the final norm",
            "own mask": blocked or "none",
            "answer": f"between {self.answer.open!r} and {self.answer.close!r}",
            "notes": self.notes or "none",
        }


def _check(entry: object) -> str | None:
    if not isinstance(entry, MethodSpec):
        return "a method is a latentprobe.methods.MethodSpec"
    if entry.slots < 1:
        return f"slots={entry.slots}; a segment has at least one slot"
    if len(set(entry.tokens)) != 3:
        return f"open, slot and close must be three different tokens, got {entry.tokens}"
    return None


methods: Registry[MethodSpec] = Registry(
    "method",
    group="latentprobe.methods",
    check=_check,
    builtin={
        "organism": "latentprobe.methods.organism:ORGANISM",
        "organism-mediated": "latentprobe.methods.organism:MEDIATED",
        "lvr": "latentprobe.methods.lvr:LVR",
        "monet": "latentprobe.methods.monet:MONET",
        "mirage": "latentprobe.methods.mirage:MIRAGE",
    },
)
