"""How narrow is attention to the image at slots and at the answer? One profile, one figure."""

import sys
from pathlib import Path

import latentprobe as lp


def main(out: Path | None = None) -> float:
    model = lp.load("organism:marker-only")
    trajectories = [model.generate(p) for p in lp.benchmarks.load("mini-attribute", limit=8)]
    profile = lp.attention_profile(model, trajectories, roles=["slot", "answer"])
    means = profile.summary().groupby("role")["narrowness"].mean()
    print(means.to_string())
    if out is not None:
        profile.plot().write_html(out, include_plotlyjs=True)
    return float(means["slot"] - means["answer"])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
