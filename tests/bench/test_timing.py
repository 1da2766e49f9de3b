import json

import pytest

from latentprobe.bench import timing
from latentprobe.bench.timing import Result, Row, race, versions


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when a contender moves it."""
    now = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def taking(*seconds: float):
        waits = iter(seconds)

        def run() -> None:
            now[0] += next(waits)

        return run

    return taking


def test_times_are_those_of_the_rounds_after_the_warm_up(clock):
    plain, other = race(
        {"plain": clock(9.0, 1.0, 2.0, 4.0), "other": clock(50.0, 3.0, 2.0, 2.0)}, rounds=3
    )
    # ratios round by round: 3, 1, 0.5; their median is not the ratio of the medians
    assert plain == Row("plain", 2000.0, 1000.0, 4000.0, 1.0)
    assert other == Row("other", 2000.0, 2000.0, 3000.0, 1.0)


def test_the_ratio_is_the_median_over_rounds_and_not_that_of_the_medians(clock):
    _, other = race({"plain": clock(0, 1, 2, 9), "other": clock(0, 3, 8, 9)}, rounds=3)
    assert other.ratio == 3.0  # of 3, 4, 1; the medians would give 4
    assert other.median_ms / 2000 == 4.0


def test_contenders_take_turns():
    order: list[str] = []
    race({name: (lambda name=name: order.append(name)) for name in "ab"}, rounds=2)
    assert "".join(order) == "ab" * 3


def test_a_result_is_json():
    result = Result("title", (Row("plain", 2.0, 1.0, 3.0, 1.0),), {"positions": 40}, "note")
    assert json.loads(json.dumps(result.to_dict())) == {
        "title": "title",
        "rows": [{"name": "plain", "median_ms": 2.0, "min_ms": 1.0, "max_ms": 3.0, "ratio": 1.0}],
        "shapes": {"positions": 40},
        "note": "note",
    }


def test_versions_name_what_a_time_depends_on():
    assert set(versions()) == {"python", "machine", "torch", "transformers"}
    assert all(versions().values())
