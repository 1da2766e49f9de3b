import io
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from plotly.offline import get_plotlyjs

from latentprobe.errors import StatisticsError, StudyError
from latentprobe.report import AttentionMap, Example, StudyPage, report_html, write_report
from latentprobe.report.content import SUMMARY_COLUMNS

HOSTILE = '<script>alert("x")</script> & "which" <b>colour</b>?'
RECIPES = {
    "full": ("the method as published", None),
    "full-again": ("the same recipe, run a second time", None),
    "plain": ("no markers, no slots, no template", None),
    "format-only": ("template forced, no markers", None),
    "markers-only": ("open then close, no slots", None),
    "zero": ("every slot's input vector set to zero, in the loop", 4),
    "mean": ("every slot's input vector replaced by the mean over problems", 4),
    "noise-norm": ("noise of the same row norm as slot input, in the loop", 4),
    "donor-different-answer": ("slots of a problem with another answer", 4),
    "cut-slots-image": ("attention from slots to image removed in every layer", 216),
    "cut-answer-slots": ("attention from answer to slots removed in every layer", 48),
    "donor-self": ("the problem's own slots put back (sham)", 4),
}
ACCURACIES = {
    "mediated": (0.97, 0.96, 0.21, 0.24, 0.19, 0.32, 0.73, 0.41, 0.12, 0.17, 0.18, 0.97),
    "marker-only": (0.91, 0.92, 0.31, 0.38, 0.90, 0.90, 0.89, 0.83, 0.91, 0.90, 0.92, 0.91),
}


def png(side: int = 56) -> bytes:
    picture = Image.new("RGB", (side, side), (235, 235, 235))
    picture.paste((200, 40, 40), (4, 4, 24, 24))
    picture.paste((40, 90, 200), (32, 30, 52, 50))
    target = io.BytesIO()
    picture.save(target, "PNG")
    return target.getvalue()


def summary_row(model: str, condition: str, accuracy: float, full: float) -> dict[str, object]:
    recipe, applied = RECIPES[condition]
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 192)
    reference = condition == "full"
    plain = condition == "plain"
    gap = accuracy - full
    verdict = "equivalent" if abs(gap) < 0.03 else "inconclusive" if gap > -0.09 else "different"
    fragile = condition == "noise-norm" and model == "marker-only"
    undefined = "the interval of the gain includes 0" if plain else None
    return {
        "model": model,
        "condition": condition,
        "recipe": recipe,
        "n": 192,
        "seeds": 3 if condition.startswith(("noise", "donor-d")) else 1,
        "accuracy": accuracy,
        "accuracy_low": max(0.0, accuracy - half),
        "accuracy_high": min(1.0, accuracy + half),
        "accuracy_loglik": min(1.0, accuracy + (0.08 if fragile else 0.015)),
        "parse_rate": 0.86 if fragile else 1.0,
        "difference": None if reference else gap,
        "difference_low": None if reference else gap - half,
        "difference_high": None if reference else gap + half,
        "retained": None if plain else (accuracy - 0.25) / (full - 0.25),
        "retained_low": None if plain else (accuracy - 0.25) / (full - 0.25) - 0.08,
        "retained_high": None if plain else (accuracy - 0.25) / (full - 0.25) + 0.08,
        "retained_reason": undefined,
        "verdict": None if reference else verdict,
        "verdict_loglik": None if reference else "equivalent" if fragile else verdict,
        "survives_scorer": not fragile,
        "answer_changed": None if reference else round(1 - accuracy, 2),
        "donor_followed": 0.81 if condition.startswith("donor-d") else None,
        "applied_min": applied,
    }


def summary(model: str) -> pd.DataFrame:
    accuracies = ACCURACIES[model]
    rows = [
        summary_row(model, condition, accuracy, accuracies[0])
        for condition, accuracy in zip(RECIPES, accuracies, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(SUMMARY_COLUMNS))


def attention(model: str) -> pd.DataFrame:
    roles = {"system": 0.0, "question": 0.08, "slot": 0.5, "close": 0.2, "answer": 0.004}
    rows = []
    for layer in range(3):
        for head in range(4):
            for role, mass in roles.items():
                base = {"slot": 0.55, "answer": 0.3, "question": 0.12, "close": 0.4}.get(role, 0.0)
                narrow = min(0.98, base + 0.09 * layer + 0.05 * (head - 1.5))
                rows.append({
                    "model": model,
                    "layer": layer,
                    "head": head,
                    "role": role,
                    "queries": 1 if role == "close" else 4,
                    "entropy_nats": None if mass == 0 else (1 - narrow) * math.log(4),
                    "entropy_normalised": None if mass == 0 else 1 - narrow,
                    "narrowness": None if mass == 0 else narrow,
                    "effective_tokens": None if mass == 0 else 4 ** (1 - narrow),
                    "image_mass": mass * (1 + 0.2 * layer + 0.1 * head),
                })
    return pd.DataFrame(rows)


def example(question: str = "Which colour is the square at the top left?") -> Example:
    tokens = ("<|im_start|>", "system\n", *("<|image_pad|>",) * 9, "Which", " colour", " is")
    roles = ("system", "system", *("image",) * 9, "question", "question", "question")
    answer = ("<think>", "<|latent_start|>", "", "", "<|latent_end|>", "</think>\n", "A", ". red")
    kinds = ("format", "open", "slot", "slot", "close", "format", "answer", "answer")
    maps = tuple(
        AttentionMap(layer, label, weights, 0.5 if label != "answer" else 0.004)
        for layer in range(3)
        for label, weights in (
            ("slot 0", ((0.9, 0.05), (0.02, 0.03 + layer / 10))),
            ("slot 1", ((0.5, 0.3), (0.1, 0.1))),
            ("answer", ((0.3, 0.2), (0.25, 0.25))),
        )
    )
    return Example(
        problem_name="mini-attribute/test/0017",
        question=question,
        options=("red", "blue", "green", "yellow", "purple", "orange"),
        gold="A",
        text="<think><|latent_start|><|latent_end|></think>\nA. red",
        answer="red",
        image_png=png(),
        tokens=tokens + answer,
        roles=roles + kinds,
        maps=maps,
    )


def study(model: str, **changes: object) -> StudyPage:
    values: dict[str, object] = {
        "model": model,
        "card": "A small model of the real architecture, trained so that the slots are the only "
        "route from the picture to the answer.",
        "verdicts": (
            "Causality: changing what the slots hold changes the answer (donor swap -0.85 "
            "[-0.90, -0.80], different); cutting slots from the image takes it to chance.",
            "Markers alone keep none of the gain: -0.03 [-0.12, 0.05].",
        ),
        "summary": changes["summary"] if "summary" in changes else summary(model),
        "attention": attention(model),
        "examples": (example(),),
        "manifest": {
            "latentprobe": "0.1.0",
            "versions": {"torch": "2.9.1", "transformers": "5.0.0"},
            "seeds": [0, 1, 2],
            "model hash": "9f2c41d07be8",
            "command": "latentprobe diagnose organism:mediated --limit 192",
            "device": None,
        },
        "chance": 1 / 6,
    }
    return StudyPage(**(values | changes))  # pyright: ignore[reportArgumentType]


def two_studies() -> list[StudyPage]:
    return [study("mediated"), study("marker-only")]


class PageReader(HTMLParser):
    """Collects what a browser would load, what it would show, and every element's id."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.scripts: list[str] = []
        self.shown: list[str] = []
        self.details: list[dict[str, str | None]] = []
        self.styles: list[str] = []
        self.headings: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.loads += [found[name] or "" for name in ("src", "href", "srcset") if name in found]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.images += [found] if tag == "img" else []
        self.details += [found] if tag == "details" else []
        if tag not in {"meta", "link", "img", "br"}:
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        tag = self._inside[-1] if self._inside else ""
        if tag == "script":
            self.scripts.append(data)
        elif tag == "style":
            self.styles.append(data)
        elif tag != "title":
            self.shown.append(data)
            self.headings += [data] if tag in {"h1", "h2"} else []

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.shown))


def read(page: str) -> PageReader:
    reader = PageReader()
    reader.feed(page)
    reader.close()
    return reader


@pytest.fixture(scope="module")
def page() -> str:
    return report_html(two_studies(), title="Do the slots carry evidence?")


def test_the_page_opens_with_the_title_and_the_verdict_sentences(page: str) -> None:
    text = read(page).text.strip()
    assert text.startswith("Do the slots carry evidence? mediated Causality: changing what")
    assert text.index("Markers alone keep none") < text.index("Accuracy by condition")


def test_the_sections_come_in_the_promised_order(page: str) -> None:
    assert read(page).headings == [
        "Do the slots carry evidence?",
        "mediated",
        "marker-only",
        "Accuracy by condition",
        "Every condition in numbers",
        "Attention to the image: how narrow, and how much",
        "Examples",
        "Manifest",
    ]


def test_the_plotly_bundle_is_there_once(page: str) -> None:
    assert page.count(get_plotlyjs()) == 1
    assert sum(len(script) > 1_000_000 for script in read(page).scripts) == 1


def test_nothing_is_loaded_from_the_network(page: str) -> None:
    reader = read(page)
    assert reader.loads
    assert all(load.startswith("data:") for load in reader.loads)
    ours = page.replace(get_plotlyjs(), "")
    assert not re.search(r"https?://|@import|url\(", ours)
    assert "default-src 'none'" in ours


def test_every_figure_has_its_own_fixed_id_and_is_drawn(page: str) -> None:
    ids = read(page).ids
    assert ids == ["figure-conditions", "figure-attention", "figure-example-1", "figure-example-2"]
    assert all(f'Plotly.newPlot("{name}"' in page for name in ids)


def test_missing_numbers_are_dashes_and_never_the_word_nan_or_none(page: str) -> None:
    text = read(page).text
    assert not re.search(r"\b(nan|NaN|None|NaT|<NA>|inf)\b", text)
    assert "\N{EN DASH}" in text
    ours = page.replace(get_plotlyjs(), "")
    assert 'title="no edit in this condition"' in ours
    assert "NaN" not in ours


def test_an_undefined_gain_says_so_and_why(page: str) -> None:
    assert 'title="the interval of the gain includes 0">undefined</span>' in page
    assert "Gain retained is undefined (plain): the interval of the gain includes 0." in page


def test_the_table_shows_every_condition_with_its_numbers(page: str) -> None:
    text = read(page).text
    for condition, (recipe, _) in RECIPES.items():
        assert f"{condition} {recipe}" in text
    assert "cut-slots-image attention from slots to image removed in every layer 0.17" in text
    assert "0.17 [0.12, 0.22]" in text
    assert "-0.80 [-0.85, -0.75]" in text.replace("\N{MINUS SIGN}", "-")
    assert "donor followed 0.81" in text
    assert "192 x 3" in text


def test_a_verdict_that_changes_with_the_scorer_is_marked_in_plain_sight(page: str) -> None:
    text = read(page).text
    assert text.count("scorer-dependent") == 1
    assert "inconclusive scorer-dependent by log-likelihood: equivalent" in text


def test_an_edit_that_reached_nothing_is_marked() -> None:
    frame = summary("mediated")
    frame.loc[frame["condition"] == "zero", "applied_min"] = 0
    page = report_html([study("mediated", summary=frame)], title="t")
    assert read(page).text.count("reached nothing") == 1


def test_text_from_outside_is_escaped_everywhere() -> None:
    hostile = replace(
        example(HOSTILE),
        problem_name=HOSTILE,
        options=(HOSTILE, "red"),
        gold=HOSTILE,
        text=HOSTILE,
        answer=HOSTILE,
        tokens=(HOSTILE,),
        roles=("answer",),
        maps=(AttentionMap(0, HOSTILE, ((0.5, 0.5),), 0.5),),
    )
    frame = summary("mediated").assign(model=HOSTILE, recipe=HOSTILE, retained_reason=HOSTILE)
    frame["condition"] = [f"{HOSTILE}{i}" for i in range(len(frame))]
    frame["retained"] = None
    page = report_html(
        [
            study(
                HOSTILE,
                card=HOSTILE,
                verdicts=(HOSTILE,),
                summary=frame,
                attention=attention("mediated"),
                examples=(hostile,),
                manifest={HOSTILE: {HOSTILE: [HOSTILE]}},
            )
        ],
        title=HOSTILE,
    )
    ours = page.replace(get_plotlyjs(), "")
    assert "<script>alert" not in ours
    assert "<b>colour" not in ours
    assert not any(script.startswith("alert") for script in read(page).scripts)
    assert HOSTILE in read(page).text
    alt = read(page).images[0]["alt"] or ""
    assert HOSTILE in alt


def test_the_example_shows_picture_options_answer_and_token_strip(page: str) -> None:
    reader = read(page)
    assert len(reader.images) == 2
    assert all(image["alt"] for image in reader.images)
    for words in ("A. red B. blue C. green", "gold answer A. red", "image x 9"):
        assert words in reader.text
    assert "parsed answer A. red (the gold answer)" in reader.text


def test_a_wrong_or_missing_answer_is_said() -> None:
    wrong = replace(example(), answer="blue")
    mute = replace(example(), answer=None, gold=None, options=())
    page = report_html([study("mediated", examples=(wrong, mute))], title="t")
    assert "B. blue (not the gold answer)" in read(page).text
    assert 'title="no answer could be parsed from the text"' in page
    assert 'title="an open question"' in page


def test_an_answer_that_is_no_option_is_shown_as_it_is() -> None:
    page = report_html(
        [study("mediated", examples=(replace(example(), answer="teal"),))], title="t"
    )
    assert "parsed answer teal (not the gold answer)" in read(page).text


def test_the_manifest_is_an_open_table(page: str) -> None:
    reader = read(page)
    assert all("open" in found for found in reader.details)
    assert "versions.transformers 5.0.0" in reader.text
    assert "command latentprobe diagnose organism:mediated --limit 192" in reader.text
    assert "seeds 0, 1, 2" in reader.text


def test_a_study_without_attention_examples_or_verdicts_still_has_a_page() -> None:
    bare = study("mediated", attention=None, examples=(), verdicts=(), card="", manifest={})
    text = read(report_html([bare], title="t")).text
    for words in ("Attention was not read.", "No example was recorded.", "No verdict was drawn."):
        assert words in text
    without_maps = replace(example(), maps=())
    page = report_html([study("mediated", examples=(without_maps,))], title="t")
    assert "No attention map was recorded" in page


def test_a_long_model_card_is_folded_away() -> None:
    page = report_html([study("mediated", card="A long story. " * 100)], title="t")
    assert "open" not in read(page).details[0]


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_report(two_studies(), tmp_path / "new" / "a.html", title="t")
    second = write_report(two_studies(), str(tmp_path / "b.html"), title="t")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().startswith(
        b'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset'
    )


def test_two_studies_of_one_name_are_refused() -> None:
    with pytest.raises(StudyError, match=r"each under its own name; got \['mediated', 'mediated'"):
        report_html([study("mediated"), study("mediated")], title="t")
    with pytest.raises(StudyError, match="got none"):
        report_html([], title="t")


def test_a_summary_without_its_columns_is_refused() -> None:
    with pytest.raises(StatisticsError, match=r"lacks column\(s\) verdict, applied_min; needed"):
        study("mediated", summary=summary("mediated").drop(columns=["verdict", "applied_min"]))
