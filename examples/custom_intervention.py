"""A user's own intervention: turn the fed vectors around, and cut one head's view of the image."""

import latentprobe as lp


def turned(activation, context):
    """Point the vector the other way, at even latent steps only."""
    signs = [-1.0 if step is not None and step % 2 == 0 else 1.0 for step in context.steps]
    return activation * activation.new_tensor(signs)[:, None]


def main() -> dict[str, str | None]:
    model = lp.load("organism:mediated")
    problem = lp.benchmarks.load("mini-attribute", limit=2)[1]
    answers = {"full": model.generate(problem).answer}
    edit = lp.Edit("latent.hook_fed", where=lp.SLOTS, do=turned)
    answers["turned"] = model.generate(problem, edits=[edit]).answer
    cut = lp.knockout(queries=lp.SLOTS, keys=lp.IMAGE, layers=[1], heads=[0])
    answers["one head cut"] = model.generate(problem, edits=[cut]).answer
    for name, answer in answers.items():
        print(f"{name}: {answer} (gold: {problem.answer})")
    return answers


if __name__ == "__main__":
    main()
