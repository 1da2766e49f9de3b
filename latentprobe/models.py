"""A loaded latent-reasoning model: generate, replay, read.

    model = load("organism:mediated")
    t = model.generate(problem)                      # a Trajectory
    model.read(t, at="blocks.*.hook_resid_post", where=SLOTS)
    model.replay(t, edits=[Edit("blocks.1.hook_resid_post", where=SLOTS, do=zero())])

The same edits work in a replay (teacher-forced, one forward) and while generating (position by
position).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from latentprobe.architectures import Architecture
from latentprobe.backends import Chunk, Plan, backends
from latentprobe.benchmarks import Problem
from latentprobe.conditions import Condition, conditions
from latentprobe.edits import Activations, Edit, Knockout
from latentprobe.errors import (
    EditError,
    EmptySubsetError,
    ModelError,
    ProblemError,
    SubsetError,
)
from latentprobe.generation import (
    Decoding,
    Parts,
    Prefill,
    Response,
    check_applied,
    check_known_in_the_loop,
    make_plan,
    prefill,
    touches_prompt,
)
from latentprobe.hookpoints import HookPoint, HookPoints
from latentprobe.loading import Checkpoint, open_checkpoint
from latentprobe.methods import MethodSpec, detect, methods, resolve_tokens
from latentprobe.prompts import Prompt, Prompter
from latentprobe.reading import finish, option_ids
from latentprobe.records import content_key
from latentprobe.scoring import OptionScorer
from latentprobe.tokens import ALL, Subset
from latentprobe.trajectory import Replay, Structure, Trajectory

Edits = Sequence[Edit | Knockout]


@dataclass(frozen=True)
class LatentModel:
    """A model with its method, ready to generate, replay and be read.

    Attributes:
        name: How it was asked for, shortened.
        card: What is known of it.
        method: How it enters, fills and leaves latent mode; None for a model without latents.
        architecture: Where its hook points stand.
        parts: What the decode loop needs.
        prompter: How problems become prompts; None without a tokenizer.
    """

    name: str
    card: str
    method: MethodSpec | None
    architecture: Architecture
    parts: Parts
    prompter: Prompter | None

    @property
    def hook_points(self) -> HookPoints:
        """Every hook point of this model."""
        return self.parts.backend.hook_points

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with any weight, the tokenizer or the image processor."""
        words, processor = self.parts.tokenizer, self.prompter and self.prompter.image_processor
        settings = processor.to_json_string() if processor is not None else ""
        texts = (words.backend_tokenizer.to_str(), str(words.chat_template), settings)
        return content_key(self.parts.backend.fingerprint(), *texts)

    # -- generating -------------------------------------------------------------------------------

    def prepare(self, problem: Problem) -> Prompt:
        """Render, tokenise and embed a problem (vision tower included)."""
        if self.prompter is None:
            raise ModelError(f"{self.name} was loaded without a tokenizer and cannot read problems")
        return self.prompter.prepare(problem, self.parts.backend)

    def prefill(self, problem: Problem) -> Prefill:
        """Run a problem's prompt once, so that several `generate` calls can share it."""
        prompt = self.prepare(problem)
        with self.parts.backend.session(make_plan(self.parts, (), 0)) as session:
            return replace(prefill(self.parts, session, prompt), problem_key=problem.key)

    def generate(  # noqa: PLR0913 - keyword-only, each one independent choice
        self,
        problem: Problem,
        *,
        seed: int = 0,
        max_new_tokens: int = 64,
        edits: Edits = (),
        condition: str | Condition | None = None,
        structure: Structure | None = None,
        decoding: Decoding | None = None,
        shared: Prefill | None = None,
        keep_logits: bool = True,
    ) -> Trajectory:
        """Generate a response, with edits acting inside the loop.

        Args:
            problem: What is asked.
            seed: Seed of sampling and of random interventions.
            max_new_tokens: Most response positions, slots included; ignored when `decoding` is
                given.
            edits: Edits and knockouts, carried out in this order at every step. Roles that only the
                finished text can tell (answer, format) are those known at the time.
            condition: A condition or its name (`markers-only`, `cut-slots-image`): its structure,
                and its edits before `edits`. Conditions that need other problems' activations
                (`mean`, donors) belong to `diagnose`.
            structure: Which parts of the response are there; None for the method as published.
            decoding: How tokens are chosen; None is greedy.
            shared: The problem's prefill, if it was run before; used unless an edit acts on the
                prompt.
            keep_logits: Keep the logits of every response position (one more step).

        Returns:
            The trajectory, with the number of positions each edit was applied at.

        Raises:
            EmptySubsetError: An edit was applied nowhere and does not allow it.
            EditError: An edit cannot be carried out as asked, or both a condition and a structure
                were given.
            UnknownNameError: No such condition.

        Example:
            >>> from latentprobe.benchmarks import load as problems
            >>> model = load("organism:mediated")
            >>> t = model.generate(problems("mini-attribute", limit=1)[0])
            >>> t.text, len(t.latents), t.stop_reason
            ('<|organism_open|> <|organism_close|> <answer> yellow </answer>', 2, 'end')
        """
        _check_arguments(problem, edits)
        if shared is not None and shared.problem_key != problem.key:
            raise ProblemError("`shared` is the prefill of another problem; call prefill(problem)")
        if condition is not None:
            structure, edits = _with_condition(condition, structure, edits)
        check_known_in_the_loop(edits)
        decoding = decoding or Decoding(max_new_tokens=max_new_tokens)
        reused = shared if shared is not None and not touches_prompt(edits, shared.prompt) else None
        prompt = reused.prompt if reused else shared.prompt if shared else self.prepare(problem)
        with self.parts.backend.session(make_plan(self.parts, edits, seed)) as session:
            start = reused or prefill(self.parts, session, prompt)
            kind = structure or Structure()
            response = Response(self.parts, session, start, kind, decoding, seed)
            stop_reason = response.run()
            check_applied(edits, [len(positions) for positions in session.applied])
            return finish(response, stop_reason, problem, keep_logits=keep_logits)

    # -- replaying --------------------------------------------------------------------------------

    def replay(
        self,
        trajectory: Trajectory,
        *,
        edits: Edits = (),
        positions: Sequence[int] | None = None,
        seed: int | None = None,
    ) -> Replay:
        """Run a trajectory again, teacher-forced: same ids, same fed vectors, one forward.

        Args:
            trajectory: What to run; its recorded latents are fed at its slots.
            edits: Edits and knockouts, carried out in this order.
            positions: Positions whose logits are wanted; None for all response positions.
            seed: Seed of random interventions; None takes the trajectory's own.

        Raises:
            EmptySubsetError: An edit's subset is empty on this trajectory and it does not allow it.
            EditError: An edit cannot be carried out as asked.

        Example:
            >>> from latentprobe.benchmarks import load as problems
            >>> model = load("organism:mediated")
            >>> t = model.generate(problems("mini-attribute", limit=1)[0])
            >>> out = model.replay(t)
            >>> out.logits.shape == t.logits.shape, bool((out.logits - t.logits).abs().max() < 1e-4)
            (True, True)
        """
        _check_arguments(trajectory.problem, edits)
        kept = tuple(trajectory.layout.response) if positions is None else tuple(positions)
        outside = [p for p in kept if not 0 <= p < len(trajectory.layout)]
        if outside:
            raise SubsetError(
                f"positions {outside} are not among the {len(trajectory.layout)} of this trajectory"
            )
        plan = make_plan(self.parts, edits, trajectory.seed if seed is None else seed)
        with self._open(trajectory, plan) as (session, states, cache):
            context = trajectory.context
            scores = OptionScorer(
                self.parts.backend, session, trajectory.prompt.encoded.offset
            ).score(
                option_ids(self.parts, trajectory.problem),
                context,
                cache=cache,
                state=states[context.length - 1],
                layout=trajectory.layout,
            )
            logits = self.parts.backend.logits(states[list(kept)])
        return Replay(logits, kept, scores, tuple(len(p) for p in session.applied))

    def read(
        self,
        trajectory: Trajectory,
        at: str | Iterable[str],
        *,
        where: Subset = ALL,
        edits: Edits = (),
    ) -> Activations:
        """Read activations of a trajectory at hook points (teacher-forced, one forward).

        Args:
            trajectory: What to run.
            at: Hook-point names or shell patterns.
            where: Positions to read (rows of `pos` and `query` axes). The recurrence's own points
                (`latent.*`) have one row per slot in `where`.
            edits: Edits made before reading; a read sees the value after the edits at its own
                point.

        Raises:
            UnknownNameError: No such hook point; the nearest names are offered.
            EmptySubsetError: `where` holds no position.

        Example:
            >>> from latentprobe.benchmarks import load as problems
            >>> from latentprobe.tokens import SLOTS
            >>> model = load("organism:mediated")
            >>> t = model.generate(problems("mini-attribute", limit=1)[0])
            >>> acts = model.read(t, "blocks.*.attn.hook_pattern", where=SLOTS)
            >>> acts["blocks.0.attn.hook_pattern"].shape[:2]
            torch.Size([4, 2])
        """
        _check_arguments(trajectory.problem, edits)
        points = self.hook_points.select(at)
        if edits and "latent.hook_state" in points:
            raise EditError(
                "latent.hook_state holds the states recorded while generating, which edits in a "
                "replay do not change; read it without edits, or make the edits while generating"
            )
        layout = trajectory.layout
        positions = layout.positions(where)
        if not positions:
            raise EmptySubsetError(f"nothing to read: {where} holds no position of this trajectory")
        inside = tuple(point for point in points if point.layer is not None)
        plan = Plan(tuple(edits), inside, where, self.parts.inherent, trajectory.seed)
        replaying = self._open(trajectory, plan)
        tensors: dict[str, Tensor] = {}
        if inside or edits:
            with replaying as (session, _, _):
                tensors |= session.tensors
        tensors |= _latent_reads(replace(trajectory, latents=replaying.fed), points, positions)
        ordered = {point.name: tensors[point.name] for point in points}
        roles = tuple(layout.roles[p] for p in positions)
        steps = tuple(layout.step(p) for p in positions)
        return Activations(ordered, tuple(positions), roles, steps)

    def _open(self, trajectory: Trajectory, plan: Plan) -> "_Replaying":
        for edit in plan.edits:
            where = edit.queries if isinstance(edit, Knockout) else edit.where
            if not edit.allow_empty and not where.mask(trajectory.layout).any():
                raise EmptySubsetError(
                    f"{edit.label}: {where} holds no position of this trajectory; choose another "
                    "subset, or say allow_empty=True if that is meant"
                )
        return _Replaying(self.parts, trajectory, plan)

    def __repr__(self) -> str:
        method = self.method.name if self.method else "none"
        return f"LatentModel({self.name}, method={method}, {len(self.hook_points)} hook points)"


def _check_arguments(problem: object, edits: object) -> None:
    """Refuse what is not a problem, and an edit given without a list around it."""
    if problem is not None and not isinstance(problem, Problem):
        raise ProblemError(f"a problem is an lp.Problem, got {problem!r}")
    if isinstance(edits, Edit | Knockout):
        raise EditError("`edits` is a list; write edits=[...] around a single one")


def _with_condition(
    condition: str | Condition, structure: Structure | None, edits: Edits
) -> tuple[Structure, tuple[Edit | Knockout, ...]]:
    """Return the structure and all edits of a named condition and a caller's own edits."""
    known = conditions.get(condition) if isinstance(condition, str) else condition
    if structure is not None:
        raise EditError(
            f"condition {known.name!r} has a structure of its own; give one or the other"
        )
    if known.needs_bank:
        raise EditError(
            f"condition {known.name!r} needs other problems' activations, which one problem does "
            "not have; run it with latentprobe.diagnose"
        )
    return known.structure, (*known.edits(None, None), *edits)


class _Replaying:
    """Context manager: an open session in which a whole trajectory has been run once."""

    def __init__(self, parts: Parts, trajectory: Trajectory, plan: Plan) -> None:
        self.parts, self.trajectory, self.plan = parts, trajectory, plan
        self.opened = parts.backend.session(plan, replaying=True)
        self.fed = trajectory.latents

    def __enter__(self) -> tuple[Any, Tensor, Any]:
        session = self.opened.__enter__()
        try:
            states, cache = self._run(session)
            check_applied(self.plan.edits, [len(positions) for positions in session.applied])
        except BaseException as error:
            self.opened.__exit__(type(error), error, error.__traceback__)
            raise
        return session, states, cache

    def __exit__(self, *error: Any) -> None:
        self.opened.__exit__(*error)

    def _run(self, session: Any) -> tuple[Tensor, Any]:
        t, backend = self.trajectory, self.parts.backend
        prompt = t.prompt.encoded
        response = backend.embed(torch.tensor(t.response_ids, dtype=torch.long))
        embeds = torch.cat([prompt.embeds, response.to(prompt.embeds.dtype)])
        if t.layout.slots:
            self.fed = session.edit_latent("latent.hook_fed", t.latents, t.layout)
            embeds[t.layout.slots] = self.fed
        after = torch.arange(t.layout.n_prompt, len(t.layout), device=embeds.device) + prompt.offset
        rotary = torch.cat([prompt.rotary, after.expand(len(prompt.rotary), -1)], dim=1)
        cache = backend.new_cache()
        return session.forward(Chunk(embeds, rotary, 0, t.layout), cache), cache


def _latent_reads(
    trajectory: Trajectory, points: Iterable[HookPoint], positions: Sequence[int]
) -> dict[str, Tensor]:
    chosen = set(positions)
    rows = [i for i, slot in enumerate(trajectory.layout.slots) if slot in chosen]
    recorded = {"latent.hook_state": trajectory.states, "latent.hook_fed": trajectory.latents}
    wanted = [point.name for point in points if point.layer is None]
    if wanted and not rows:
        raise EmptySubsetError(f"{wanted[0]} stands at slots only, and `where` holds no slot")
    return {name: recorded[name][rows] for name in wanted}


def load(
    source: Any,
    *,
    method: str | MethodSpec | None = None,
    backend: str = "torch",
    dtype: torch.dtype | None = None,
    device: str | None = None,
) -> LatentModel:
    """Load a latent-reasoning model.

    Args:
        source: `organism:NAME`, a checkpoint folder in the Hugging Face layout, or a hub id.
        method: A method's name or a `MethodSpec`; None detects it from tokenizer and config.
        backend: Name of the backend that runs it.
        dtype: Number format of the weights; None takes float32 on the CPU and the checkpoint's own
            elsewhere.
        device: Where to put it; None takes a GPU where there is one.

    Raises:
        UnknownNameError: No such organism, method or backend.
        ModelError: The checkpoint cannot be loaded or its architecture is not supported.
        MethodNotFoundError: No method was recognised.
        MethodMismatchError: The tokenizer lacks the tokens of the method asked for.

    Example:
        >>> load("organism:marker-only").method.name
        'organism'
    """
    make_backend = backends.get(backend)
    checkpoint = open_checkpoint(source, dtype=dtype, device=device)
    return assemble(checkpoint, method=method, make_backend=make_backend)


def assemble(
    checkpoint: Checkpoint, *, method: str | MethodSpec | None, make_backend: Any
) -> LatentModel:
    """Put a loaded checkpoint, its method and a backend together."""
    vocabulary = checkpoint.tokenizer.get_vocab()
    hf: Any = checkpoint.model
    config = hf.config.to_dict()
    if method is None:
        spec = detect(vocabulary, config)
    else:
        spec = methods.get(method) if isinstance(method, str) else method
    tokens = resolve_tokens(spec, vocabulary, config)
    backend = make_backend(checkpoint.model, checkpoint.architecture, latent=True)
    words = checkpoint.tokenizer
    parts = Parts(
        backend=backend,
        tokenizer=words,
        spec=spec,
        tokens=tokens,
        ends=_ends(hf, words),
        template=tuple(words(spec.answer.open, add_special_tokens=False)["input_ids"]),
        joiner=_joiner(words),
    )
    image_token = words.convert_ids_to_tokens(config[checkpoint.architecture.image_token])
    prompter = Prompter(words, checkpoint.image_processor, spec.prompt, image_token)
    return LatentModel(
        checkpoint.name, checkpoint.card, spec, checkpoint.architecture, parts, prompter
    )


def _ends(model: Any, words: Any) -> frozenset[int]:
    """Return the ids that end a response: the tokenizer's and the generation config's."""
    declared = getattr(model.generation_config, "eos_token_id", None)
    listed = declared if isinstance(declared, list) else [declared]
    return frozenset(i for i in (*listed, words.eos_token_id) if i is not None)


def _joiner(words: Any) -> str:
    """Return what the tokenizer puts between two tokens' texts: a space for word-level ones."""
    return "" if words.backend_tokenizer.decoder is not None else " "


__all__ = ["LatentModel", "load"]
