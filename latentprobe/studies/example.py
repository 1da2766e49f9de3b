"""One response kept so that a report can show it: picture, tokens, roles, attention at slots."""

import io
import json
from pathlib import Path

from latentprobe.models import LatentModel
from latentprobe.studies.diagnosis import EXAMPLE, EXAMPLE_IMAGE
from latentprobe.tokens import ANSWER, SLOTS
from latentprobe.trajectory import Trajectory


def keep_example(folder: Path, model: LatentModel, trajectory: Trajectory) -> None:
    """Write a response to a study's folder: `example.json` and, with an image, `example.png`."""
    problem = trajectory.problem
    assert problem is not None
    words = model.parts.tokenizer
    content = {
        "problem_name": problem.name or problem.question,
        "question": problem.question,
        "options": list(problem.options),
        "gold": problem.answer,
        "text": trajectory.text,
        "answer": trajectory.answer,
        "tokens": [words.decode([token]) for token in trajectory.token_ids],
        "roles": list(trajectory.layout.roles),
        "maps": attention_maps(model, trajectory),
    }
    if problem.images:
        data = io.BytesIO()
        problem.pictures[0].save(data, format="PNG")
        (folder / EXAMPLE_IMAGE).write_bytes(data.getvalue())
    (folder / EXAMPLE).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def attention_maps(model: LatentModel, trajectory: Trajectory) -> list[dict]:
    """Return head-mean attention over the first image at every slot and answer position."""
    layout = trajectory.layout
    where = SLOTS | ANSWER
    if not layout.images or not layout.positions(where):
        return []
    grid = layout.images[0]
    acts = model.read(trajectory, "blocks.*.attn.hook_pattern", where=where)
    maps = []
    for layer, name in enumerate(acts):
        rows = acts[name][:, :, grid.start : grid.positions.stop].mean(dim=0)  # query image
        for index, weights in enumerate(rows):
            step, role = acts.steps[index], acts.roles[index]
            maps.append({
                "layer": layer,
                "position_label": role if step is None else f"slot {step}",
                "weights": weights.reshape(grid.rows, grid.columns).tolist(),
                "image_mass": float(weights.sum()),
            })
    return maps
