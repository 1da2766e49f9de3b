"""Named, lazy, validated registries; plug-ins arrive through entry points.

A registry maps names to objects of one kind. Built-in entries are `"module:attribute"` strings that
are imported when first asked for, so that listing names costs nothing. Third-party packages add
entries through the entry-point group `latentprobe.<kind>`; every entry is validated when it is
registered or loaded, and a wrong one is refused with its definition in the message.
"""

import importlib
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from operator import attrgetter
from typing import Any, Generic, TypeVar

from latentprobe.errors import PluginError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """A table of named things of one kind.

    Args:
        kind: What the entries are, singular, for messages ("method").
        group: Entry-point group that plug-ins use ("latentprobe.methods").
        check: Returns what is wrong with an entry, or None.
        builtin: Names and lazy targets (`"module:attribute"`).

    Example:
        >>> colours = Registry("colour", group="example.colours", check=lambda entry: None)
        >>> _ = colours.register("red", 0xFF0000)
        >>> colours.names(), colours.get("red")
        (['red'], 16711680)
    """

    def __init__(
        self,
        kind: str,
        *,
        group: str,
        check: Callable[[Any], str | None],
        builtin: dict[str, str] | None = None,
    ) -> None:
        self.kind, self.group, self._check = kind, group, check
        self._targets: dict[str, str] = dict(builtin or {})
        self._entries: dict[str, T] = {}
        self._plugins_seen = False

    def register(self, name: str, entry: T) -> T:
        """Add an entry under a new name and return it.

        Raises:
            PluginError: The name is taken by something else, or the entry has the wrong shape.
        """
        self._discover()
        if name in self._targets or self._entries.get(name, entry) is not entry:
            raise PluginError(f"{self.kind} {name!r} is already registered; choose another name")
        self._entries[name] = self._validated(name, entry)
        return entry

    def unregister(self, name: str) -> None:
        """Remove an entry added with `register`; unknown names are an error."""
        self.get(name)
        self._targets.pop(name, None)
        self._entries.pop(name, None)

    def get(self, name: str) -> T:
        """Return the entry called `name`, importing it when needed.

        Raises:
            UnknownNameError: No entry has this name; the message offers the nearest ones.
            PluginError: The entry cannot be imported or has the wrong shape.
        """
        if name not in self._entries and name not in self._targets:
            self._discover()
        if name not in self._entries:
            if name not in self._targets:
                raise UnknownNameError(self.kind, name, self.names())
            self._entries[name] = self._validated(name, self._imported(name))
        return self._entries[name]

    def names(self) -> list[str]:
        """Return all names, sorted, plug-ins included; imports no entry."""
        self._discover()
        return sorted({*self._targets, *self._entries})

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: str) -> bool:
        return name in self.names()

    def _imported(self, name: str) -> Any:
        module, _, attribute = self._targets[name].partition(":")
        try:
            return attrgetter(attribute)(importlib.import_module(module))
        except (ImportError, AttributeError) as error:
            raise PluginError(
                f"{self.kind} {name!r} stands at {self._targets[name]!r}, which cannot be imported "
                f"({error}); install what is missing, or remove the plug-in that names it"
            ) from error

    def _discover(self) -> None:
        if self._plugins_seen:
            return
        found: dict[str, str] = {}
        for point in entry_points(group=self.group):
            if point.name in {**self._targets, **self._entries, **found}:
                raise PluginError(
                    f"two {self.kind}s are called {point.name!r}: a built-in or earlier one and "
                    f"the plug-in {point.value!r}; rename the plug-in's entry point"
                )
            found[point.name] = point.value
        self._targets |= found
        self._plugins_seen = True

    def _validated(self, name: str, entry: Any) -> T:
        wrong = self._check(entry)
        if wrong is not None:
            raise PluginError(f"{self.kind} {name!r} cannot be registered: {wrong} (got {entry!r})")
        return entry
