"""Which method a checkpoint was trained with: token strings first, then config keys.

The same three ids mean different things in different methods, so ids are never looked at alone:
token strings are resolved through the checkpoint's own tokenizer and cross-checked with its config.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latentprobe.errors import MethodMismatchError, MethodNotFoundError
from latentprobe.methods.spec import MethodSpec, methods


@dataclass(frozen=True)
class TokenIds:
    """Ids of a method's tokens in one tokenizer."""

    open: int
    slot: int
    close: int


def detect(vocabulary: Mapping[str, int], config: Mapping[str, Any]) -> MethodSpec:
    """Return the one registered method whose tokens and config entries a checkpoint has.

    Args:
        vocabulary: The tokenizer's strings and ids.
        config: The checkpoint's config as a dict.

    Raises:
        MethodNotFoundError: No method fits; the message says which strings were looked for.
    """
    found = [spec for spec in _all() if _fits(spec, vocabulary, config)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(spec.name for spec in found)
        raise MethodNotFoundError(f"several methods fit this checkpoint: {names}; say method=...")
    looked = "; ".join(f"{spec.name}: {' '.join(spec.tokens)}" for spec in _all())
    raise MethodNotFoundError(
        "no latent method was recognised in this checkpoint. Looked in its tokenizer for "
        f"({looked}), and in its config for each method's own entries. Name the method with "
        "method=..., or give your own MethodSpec"
    )


def resolve_tokens(
    spec: MethodSpec, vocabulary: Mapping[str, int], config: Mapping[str, Any]
) -> TokenIds:
    """Return the ids of a method's tokens in a tokenizer.

    A config entry that disagrees with the tokenizer is a warning: the tokenizer is believed.

    Raises:
        MethodMismatchError: The tokenizer lacks one of the method's tokens.
    """
    missing = [token for token in spec.tokens if token not in vocabulary]
    if missing:
        raise MethodMismatchError(
            f"method {spec.name!r} needs the tokens {' '.join(spec.tokens)}, but this checkpoint's "
            f"tokenizer lacks {' '.join(missing)}; load a checkpoint trained with {spec.name!r}, "
            "or leave method= out to have the method detected"
        )
    ids = TokenIds(*(vocabulary[token] for token in spec.tokens))
    for key, part in spec.config_keys.items():
        if config.get(key) not in (None, getattr(ids, part)):
            warnings.warn(
                f"config entry {key}={config[key]} disagrees with the tokenizer, where "
                f"{getattr(spec, part)} is {getattr(ids, part)}; the tokenizer is believed",
                stacklevel=2,
            )
    return ids


def _all() -> list[MethodSpec]:
    return [methods.get(name) for name in methods]


def _fits(spec: MethodSpec, vocabulary: Mapping[str, int], config: Mapping[str, Any]) -> bool:
    return all(token in vocabulary for token in spec.tokens) and all(
        config.get(key, False) == value for key, value in spec.requires.items()
    )
