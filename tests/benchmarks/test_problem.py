"""Problems: images that can be read, options, gold answers, content hashes, boxes."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from latentprobe.benchmarks import Box, Problem
from latentprobe.benchmarks.problem import option_letters
from latentprobe.errors import ProblemError

COLOURS = ("red", "blue", "green")


def picture(colour: str = "red", size: tuple[int, int] = (4, 3)) -> Image.Image:
    return Image.new("RGB", size, colour)


def problem(**changed) -> Problem:
    fields = {"question": "What color is this?", "images": [picture()], "options": COLOURS}
    return Problem(**(fields | {"answer": "red"} | changed))


# --- images --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("ending", ["png", "bmp"])
def test_a_picture_on_disk_is_opened_when_the_problem_is_made(tmp_path: Path, kind, ending: str):
    path = tmp_path / f"p.{ending}"
    picture("blue").save(path)
    made = problem(images=[kind(path)])
    path.unlink()
    assert made.pictures[0].getpixel((0, 0)) == (0, 0, 255)
    assert made.key == problem(images=[picture("blue")]).key


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_picture_becomes_rgb(mode: str):
    made = problem(images=[picture("white").convert(mode)])
    assert made.pictures[0].mode == "RGB"
    assert made.pictures[0].getpixel((0, 0)) == (255, 255, 255)


def test_a_missing_picture_is_an_error_with_its_number_and_path(tmp_path: Path):
    with pytest.raises(ProblemError, match=r"image 1: no file at .*nowhere\.png"):
        problem(images=[picture(), tmp_path / "nowhere.png"])


def corrupt(path: Path, kind: str) -> Path:
    Image.effect_noise((60, 60), 50).save(path, format="PNG")
    whole = path.read_bytes()
    contents = {
        "not a picture": b"hello, this is text",
        "nothing": b"",
        "cut in half": whole[: len(whole) // 2],
        "header only": whole[:30],
        "turned around": whole[::-1],
        "broken in the middle": whole[:100] + b"\x00" * 400 + whole[500:],
    }
    path.write_bytes(contents[kind])
    return path


@pytest.mark.parametrize(
    "kind",
    [
        *("not a picture", "nothing", "cut in half", "header only", "turned around"),
        "broken in the middle",
    ],
)
def test_an_unreadable_picture_is_an_error_that_says_what_to_give(tmp_path: Path, kind: str):
    path = corrupt(tmp_path / "p.png", kind)
    with pytest.raises(ProblemError, match=r"image 0: .*p\.png cannot be read .* give a PNG, JPEG"):
        problem(images=[path])


def test_a_folder_is_not_a_picture(tmp_path: Path):
    with pytest.raises(ProblemError, match="cannot be read as a picture"):
        problem(images=[tmp_path])


def test_a_picture_too_large_to_be_safe_is_an_error(tmp_path: Path, monkeypatch):
    picture(size=(60, 60)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ProblemError, match="cannot be read as a picture"):
        problem(images=[tmp_path / "p.png"])


def test_a_problem_needs_no_picture_and_no_options():
    bare = Problem("How many?", answer="seven")
    assert (bare.images, bare.options, bare.answer, bare.answer_index) == ((), (), "seven", None)


# --- options and gold answers --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_as", "answer", "index"),
    [("blue", "blue", 1), ("B", "blue", 1), ("A", "red", 0), (None, None, None)],
)
def test_the_gold_answer_is_an_option_or_its_letter(given_as, answer, index):
    made = problem(answer=given_as)
    assert (made.answer, made.answer_index) == (answer, index)


def test_an_option_that_looks_like_a_letter_is_itself():
    made = problem(options=("B", "A"), answer="A")
    assert (made.answer, made.answer_index) == ("A", 1)


@pytest.mark.parametrize("gold", ["D", "purple", "", "a", "Red"])
def test_a_gold_answer_that_is_no_option_is_an_error(gold: str):
    with pytest.raises(
        ProblemError, match=rf"gold answer '{gold}' is not among the options .* a letter A-C"
    ):
        problem(answer=gold, name="")


def test_options_must_differ():
    with pytest.raises(ProblemError, match=r"options must differ .* \['red', 'red'\]"):
        problem(options=("red", "red"))


def test_there_are_twenty_six_letters():
    assert option_letters(3) == ["A", "B", "C"]
    assert option_letters(26)[-1] == "Z"
    assert option_letters(0) == []
    with pytest.raises(ProblemError, match="27 options, but only 26 letters"):
        option_letters(27)


# --- content hash --------------------------------------------------------------------------------


def test_the_key_is_a_hash_of_question_options_answer_and_pixels():
    made = problem(images=[picture(size=(1, 1))])
    text = b"What color is this?\0red\0blue\0green\0answer:red\0"
    assert made.key == hashlib.sha256(text + b"(1, 1)\xff\0\0").hexdigest()[:16]


@pytest.mark.parametrize(
    "changed",
    [
        {"question": "What colour is this?"},
        {"images": []},
        {"images": [picture("blue")]},
        {"images": [picture(size=(3, 4))]},
        {"images": [picture(), picture()]},
        {"options": ("red", "green", "blue")},
        {"answer": "blue"},
        {"answer": None},
    ],
)
def test_what_is_asked_changes_the_key(changed: dict):
    assert problem(**changed).key != problem().key


def test_labels_evidence_and_twins_do_not_change_the_key():
    labelled = problem(
        name="n", cluster="c", evidence=[Box(0, 0, 1, 1)], twin=problem(answer="blue")
    )
    assert labelled.key == problem().key
    assert problem(answer="A").key == problem().key


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=3).filter(
            str.strip
        ),
        min_size=1,
        max_size=4,
        unique=True,
    )
)
def test_the_key_is_stable_and_knows_the_order_of_options(options: list[str]):
    made = Problem("q", options=options)
    assert made.key == Problem("q", options=tuple(options)).key
    turned = Problem("q", options=options[::-1])
    assert (turned.key == made.key) == (options == options[::-1])


# --- boxes ---------------------------------------------------------------------------------------


def test_a_box_is_kept_with_its_image():
    box = Box(1, 2.5, 3, 4, image=1)
    assert replace(box, image=0) == Box(1, 2.5, 3, 4)


@pytest.mark.parametrize("corners", [(3, 0, 3, 5), (0, 5, 3, 5), (4, 0, 3, 5), (0, 6, 3, 5)])
def test_an_empty_box_is_an_error(corners: tuple[int, ...]):
    with pytest.raises(ProblemError, match=r"is empty: left must be below right and top below"):
        Box(*corners)


def test_pictures_are_turned_upright_and_transparency_is_white(tmp_path):
    sideways = Image.new("RGB", (4, 2), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    sideways.save(tmp_path / "sideways.jpg", exif=exif)
    assert Problem("?", [tmp_path / "sideways.jpg"]).pictures[0].size == (2, 4)
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert Problem("?", [clear]).pictures[0].getpixel((0, 0)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_cut_off():
    deep = Image.new("I;16", (2, 1))
    deep.putpixel((0, 0), 257 * 100)
    deep.putpixel((1, 0), 65535)
    seen = Problem("?", [deep]).pictures[0]
    assert [seen.getpixel((column, 0)) for column in (0, 1)] == [(100,) * 3, (255,) * 3]


@pytest.mark.parametrize("options", ["red", ["red", " "]])
def test_options_that_are_no_texts_are_refused(options):
    with pytest.raises(ProblemError, match=r"options are a list of texts|an option is empty"):
        Problem("?", options=options)
