"""latentprobe: mechanistic interpretability for latent visual reasoning.

    import latentprobe as lp

    model = lp.load("organism:mediated")
    problem = lp.benchmarks.load("mini-attribute", limit=1)[0]
    t = model.generate(problem)
    model.replay(t, edits=[lp.Edit("blocks.1.hook_resid_post", where=lp.SLOTS, do=lp.zero())])

Importing the package loads nothing heavy; every name below is fetched when it is first used.
"""

import importlib
from typing import Any

_HOMES = {
    "latentprobe.tokens": (
        *("ALL", "SYSTEM", "IMAGE", "QUESTION", "OPEN", "SLOTS", "CLOSE", "MARKERS"),
        *("REASONING", "FORMAT", "ANSWER", "image_region", "positions", "segment"),
    ),
    "latentprobe.edits": ("Edit", "knockout"),
    "latentprobe.interventions": (
        *("Bank", "intervention", "mean", "noise", "patch", "resample", "zero"),
    ),
    "latentprobe.generation": ("Decoding",),
    "latentprobe.methods": ("MethodSpec",),
    "latentprobe.models": ("load",),
    "latentprobe.benchmarks": ("Box", "Problem"),
    "latentprobe.analyses": ("attention_profile",),
    "latentprobe.studies.diagnose": ("diagnose",),
    "latentprobe.errors": ("LatentProbeError",),
}
_MODULES = ("architectures", "backends", "benchmarks", "interventions", "methods", "organisms")
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = sorted([*_HOME_OF, *_MODULES])  # noqa: PLE0605 - it is a list  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Fetch a public name from the module it lives in."""
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"latentprobe.{name}")
    raise AttributeError(f"module 'latentprobe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
