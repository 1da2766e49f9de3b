"""Activation patching: where does the twin's answer enter the run?

Slots' residual stream of the counterfactual twin is put into the problem's own run, layer by layer,
and the option the model then prefers is printed.
"""

import latentprobe as lp


def main() -> list[tuple[str, str | None]]:
    model = lp.load("organism:mediated")
    problem = lp.benchmarks.load("mini-attribute", limit=2)[1]
    clean, twin = model.generate(problem), model.generate(problem.twin)
    print(f"the problem's answer: {clean.answer}; the twin's: {twin.answer}")
    found = []
    for kind in ("hook_resid_pre", "hook_resid_post"):
        for layer in range(3):
            name = f"blocks.{layer}.{kind}"
            donor = model.read(twin, name, where=lp.SLOTS)
            edit = lp.Edit(name, where=lp.SLOTS, do=lp.patch(donor))
            out = model.replay(clean, edits=[edit])
            best = out.option_scores.index(max(out.option_scores))
            found.append((name, problem.options[best]))
            print(f"{name}: {problem.options[best]} ({out.applied[0]} positions patched)")
    return found


if __name__ == "__main__":
    main()
