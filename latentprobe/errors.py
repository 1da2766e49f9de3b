"""Every error latentprobe raises on purpose, in one tree.

    LatentProbeError
    ├── UnknownNameError        a name no registry knows (nearest names offered)
    ├── PluginError             something registered does not have the shape its seam asks for
    ├── ModelError              a model could not be understood or loaded
    │   ├── MethodNotFoundError     no latent method's tokens are in the tokenizer
    │   └── MethodMismatchError     a method was asked for that the checkpoint cannot carry
    ├── ProblemError            a problem is malformed (image, options, gold answer)
    ├── SubsetError             a token subset cannot be resolved on this layout
    │   └── EmptySubsetError        an edit would touch no position at all
    ├── EditError               an edit or knockout cannot honestly be carried out
    ├── StatisticsError         a quantity cannot be estimated from these rows
    └── StudyError              a results folder cannot be used as asked
        └── StudyMismatchError      the folder holds another study's rows

Messages say what failed, what was given, what is allowed and what to do.
"""

import difflib
from collections.abc import Iterable


class LatentProbeError(Exception):
    """Base class of every error raised on purpose by latentprobe."""


class UnknownNameError(LatentProbeError, KeyError):
    """A name was not found; carries the nearest known names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, advice: str = "") -> None:
        """Compose the message from the kind of thing, the given name and the known names."""
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        self.nearest = tuple(difflib.get_close_matches(name, self.known, n=3, cutoff=0.4))
        self.advice = advice
        super().__init__(kind, name, self.known)  # what a copy is made from, also across processes

    def __str__(self) -> str:
        """Return the message without KeyError's quoting."""
        near = f" Did you mean {', '.join(map(repr, self.nearest))}?" if self.nearest else ""
        shown = ", ".join(self.known[:20]) or "(none)"
        more = f" and {len(self.known) - 20} more" if len(self.known) > 20 else ""
        advice = f" {self.advice}" if self.advice else ""
        return f"unknown {self.kind} {self.name!r}.{near} Available: {shown}{more}.{advice}"


class PluginError(LatentProbeError, TypeError):
    """Something registered does not have the shape its seam asks for."""


class ModelError(LatentProbeError):
    """A model could not be understood or loaded."""


class MethodNotFoundError(ModelError):
    """No known latent method's tokens are in the checkpoint's tokenizer."""


class MethodMismatchError(ModelError):
    """A method was asked for whose tokens the checkpoint's tokenizer lacks."""


class ProblemError(LatentProbeError, ValueError):
    """A problem is malformed: unreadable image, missing options, gold answer not among them."""


class SubsetError(LatentProbeError, ValueError):
    """A token subset cannot be resolved on this layout."""


class EmptySubsetError(SubsetError):
    """An edit would touch no position at all and did not say `allow_empty=True`."""


class EditError(LatentProbeError, ValueError):
    """An edit or knockout cannot honestly be carried out as asked."""


class StatisticsError(LatentProbeError, ValueError):
    """A quantity cannot be estimated from these rows."""


class StudyError(LatentProbeError):
    """A results folder cannot be used as asked."""


class StudyMismatchError(StudyError):
    """The folder holds another study's rows; nothing was overwritten."""
