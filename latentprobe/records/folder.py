"""A study's folder: whose it is, who writes there, and files replaced whole or not at all."""

import json
import os
import platform
import sys
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from latentprobe.errors import StudyError, StudyMismatchError

if sys.platform != "win32":  # pragma: no branch
    import fcntl

FORMAT = 1  # of the folder; another number is another study
MANIFEST, LOCK = "manifest.json", ".lock"
PACKAGES = ("latentprobe", "torch", "transformers", "numpy", "scipy", "plotly")


def environment() -> dict[str, Any]:
    """Return what results may depend on: package versions, platform and number of cores.

    Versions come from installed metadata, nothing is imported; an absent package is None.

    Example:
        >>> sorted(environment())
        ['cpus', 'platform', 'versions']
    """
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {"versions": versions, "platform": system, "cpus": os.cpu_count()}


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never half."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the folder's manifest, None without one; a StudyError if it cannot be read."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_bytes())
        manifest["study"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StudyError(
            f"{path} is not a study's manifest ({error!r}); give another folder, or restore the "
            "file if it was edited by hand"
        ) from error
    return manifest


def check_identity(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of this same study, None in an empty folder, else raise."""
    manifest = read_manifest(folder)
    advice = "Nothing was changed; choose another folder (out=, --out)"
    if manifest is None:
        ours = {LOCK, f"{MANIFEST}.partial"}
        others = sorted(path.name for path in folder.glob("*") if path.name not in ours)
        if others:
            raise StudyMismatchError(
                f"{folder} holds files but no study: {', '.join(others[:5])} and no {MANIFEST}. "
                f"{advice}"
            )
        return None
    there = {"format": manifest.get("format"), **_flat(manifest["study"])}
    given = {"format": FORMAT, **_flat(identity)}
    names = sorted(key for key in {*there, *given} if there.get(key, ...) != given.get(key, ...))
    if names:
        shown = "; ".join(
            f"{name}: got {given.get(name, '(absent)')!r}, there {there.get(name, '(absent)')!r}"
            for name in names[:8]
        )
        more = f"; and {len(names) - 8} more" if len(names) > 8 else ""
        raise StudyMismatchError(
            f"{folder} holds another study. They differ in {shown}{more}. {advice}"
        )
    return manifest


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        nested = isinstance(inner, dict) and bool(inner)
        flat.update(_flat(inner, f"{prefix}{name}.") if nested else {f"{prefix}{name}": inner})
    return flat


def lock_folder(folder: Path) -> int:
    """Hold the folder's lock file; the system lets go of it when the process ends."""
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    if sys.platform == "win32":  # pragma: no cover
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StudyError(
            f"another process is writing to {folder}; wait for it to finish, stop it, or choose "
            "another folder (out=, --out)"
        ) from None
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error}); make sure that no other process writes there",
            UserWarning,
            stacklevel=3,
        )
    return handle
