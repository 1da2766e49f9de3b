"""Recognising a method: token strings first, config entries second, ids never alone."""

from dataclasses import replace

import pytest

from latentprobe.errors import MethodMismatchError, MethodNotFoundError
from latentprobe.methods import detect, methods, resolve_tokens
from latentprobe.methods.detect import TokenIds


def vocabulary(*names: str) -> dict[str, int]:
    """Return a vocabulary that has the tokens of some methods, from id 100 on."""
    tokens = dict.fromkeys(token for name in names for token in methods.get(name).tokens)
    return {"a": 0, "b": 1} | {token: 100 + i for i, token in enumerate(tokens)}


@pytest.mark.parametrize("name", ["lvr", "monet", "mirage", "organism"])
def test_every_method_is_recognised_by_its_own_tokens(name):
    assert detect(vocabulary(name), {}) is methods.get(name)


def test_config_entries_tell_methods_with_the_same_tokens_apart():
    words = vocabulary("organism")
    for entry, name in ((True, "organism-mediated"), (False, "organism")):
        assert detect(words, {"only_slots_see_image": entry}).name == name


def test_a_missing_token_is_enough_not_to_be_recognised():
    for token in methods.get("monet").tokens:
        words = vocabulary("monet")
        del words[token]
        with pytest.raises(
            MethodNotFoundError, match=r"monet: <abs_vis_token> <abs_vis_token_pad>"
        ):
            detect(words, {})


def test_a_checkpoint_that_fits_two_methods_has_to_be_told_which():
    with pytest.raises(MethodNotFoundError, match=r"several methods fit.*: lvr, monet; say method"):
        detect(vocabulary("lvr", "monet"), {})


def test_an_lvr_head_is_not_plain_lvr():
    assert detect(vocabulary("lvr"), {"lvr_head": False}).name == "lvr"
    with pytest.raises(MethodNotFoundError, match="no latent method was recognised"):
        detect(vocabulary("lvr"), {"lvr_head": True})


def test_tokens_are_resolved_through_the_checkpoints_own_tokenizer():
    spec = methods.get("mirage")
    words = dict(zip(spec.tokens, (7, 8, 9), strict=True))
    assert resolve_tokens(spec, words, {}) == TokenIds(open=7, slot=8, close=9)
    agreed = {"latent_start_id": 7, "latent_token_id": 8, "latent_end_id": 9}
    assert resolve_tokens(spec, words, agreed) == TokenIds(7, 8, 9)


def test_a_config_that_disagrees_is_warned_about_and_the_tokenizer_believed():
    spec = methods.get("lvr")
    words = dict(zip(spec.tokens, (7, 8, 9), strict=True))
    message = r"lvr_end_id=10 disagrees .* where <\|lvr_end\|> is 9; the tokenizer is believed"
    with pytest.warns(UserWarning, match=message):
        assert resolve_tokens(spec, words, {"lvr_end_id": 10, "lvr_id": 8}).close == 9


def test_a_method_whose_tokens_are_not_there_is_refused():
    spec = replace(methods.get("lvr"), close="<|other|>")
    with pytest.raises(
        MethodMismatchError, match=r"tokenizer lacks <\|other\|>; load a checkpoint"
    ):
        resolve_tokens(spec, vocabulary("lvr"), {})
