"""Interventions by name, and the decorator that adds a user's own."""

import inspect
from collections.abc import Callable
from typing import Any

from latentprobe.edits import Intervention
from latentprobe.errors import PluginError
from latentprobe.registry import Registry

Factory = Callable[..., Intervention]


def _check(entry: object) -> str | None:
    return None if callable(entry) else "an intervention is a callable (activation, context)"


interventions: Registry[Factory] = Registry(
    "intervention",
    group="latentprobe.interventions",
    check=_check,
    builtin={
        name: f"latentprobe.interventions.content:{name}"
        for name in ("zero", "mean", "resample", "patch", "noise")
    },
)


def intervention(name: str) -> Callable[[Callable[[Any, Any], Any]], Intervention]:
    """Register a function `(activation, context) -> activation` under a name.

    The function itself works as `do=`; by its name it is found everywhere a built-in one is.

    Args:
        name: The name, new among interventions.

    Raises:
        PluginError: The name is taken, or the function does not take (activation, context).

    Example:
        >>> @intervention("a-third")
        ... def a_third(activation, context):
        ...     return activation / 3
        >>> a_third(6.0, None), "a-third" in interventions
        (2.0, True)
        >>> interventions.unregister("a-third")
    """

    def add(function: Callable[[Any, Any], Any]) -> Intervention:
        signature = inspect.signature(function)
        try:
            signature.bind(object(), object())
        except TypeError as error:
            raise PluginError(
                f"intervention {name!r} is called as (activation, context), but "
                f"{getattr(function, '__name__', function)}{signature} cannot be ({error})"
            ) from None
        interventions.register(name, lambda: function)
        return function

    return add
