import pytest
import torch

from latentprobe.bench.attention import LAYERS, SLOT_COUNT, _chunk, run
from latentprobe.bench.timing import Result


@pytest.fixture(scope="module")
def result() -> Result:
    return run(positions=40, repeats=1, threads=1)


def test_rows_read_agree_with_eager_attention(result):
    assert 0 < result.shapes["max_difference"] < 1e-6
    assert result.note.startswith("largest difference between the rows read and eager attention")


def test_the_plain_forward_is_what_the_others_are_held_against(result):
    names = [row.name for row in result.rows]
    assert names == [
        "plain forward, SDPA",
        f"latentprobe, rows at {SLOT_COUNT} slots, all layers",
        "eager forward, output_attentions=True",
    ]
    assert result.rows[0].ratio == 1.0
    assert all(0 < row.min_ms <= row.median_ms <= row.max_ms for row in result.rows)


def test_the_json_says_what_was_run(result):
    shapes = result.to_dict()["shapes"]
    assert (shapes["positions"], shapes["layers"], shapes["slots"]) == (40, LAYERS, SLOT_COUNT)
    assert {"d_model", "heads", "kv_heads", "threads", "torch", "python"} <= set(shapes)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("positions", [32, 40, 1088])
def test_the_sequence_is_as_long_as_asked_with_one_span(positions):
    chunk = _chunk(positions, 0)
    layout = chunk.layout
    assert len(layout) == len(chunk.embeds) == chunk.rotary.shape[1] == positions
    assert layout.roles.count("image") == positions - 24
    assert [layout.roles[p] for p in layout.slots] == ["slot"] * SLOT_COUNT
    (segment,) = layout.segments
    assert (layout.roles[segment.open], layout.roles[segment.close]) == ("open", "close")
    assert layout.roles[-1] == "answer"
