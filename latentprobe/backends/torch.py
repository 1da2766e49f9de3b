"""The default backend: the model's own forward, PyTorch hooks, attention through its interface.

A session hooks only the modules its plan names. Everything is registered on entry and removed on
exit, also when something fails half-way; outside a session the model is exactly as it was loaded.
"""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import DynamicCache

from latentprobe.architectures import Architecture, Encoded, Site
from latentprobe.backends.attention import AttentionHandler, handled
from latentprobe.backends.backend import Chunk, Plan, apply_edit, check_plan
from latentprobe.edits import Context, Edit, Knockout
from latentprobe.errors import EditError
from latentprobe.hookpoints import HookPoint, HookPoints
from latentprobe.tokens import Layout, Subset


class TorchBackend:
    """Runs a Hugging Face model under edits, knockouts and reads.

    Args:
        model: The loaded model; it is never changed outside an open session.
        architecture: Where hook points stand in it.
        latent: Whether the recurrence's own points (`latent.*`) exist.
    """

    def __init__(self, model: nn.Module, architecture: Architecture, *, latent: bool) -> None:
        self.model, self.architecture = model, architecture
        self.decoder = architecture.find_decoder(model)
        self.layers = attrgetter(architecture.layers)(self.decoder)
        self.embedding = attrgetter(architecture.embedding)(self.decoder)
        self.unembedding = attrgetter(architecture.unembedding)(model)
        self.hook_points = HookPoints.for_model(n_layers=len(self.layers), latent=latent)
        self.n_heads = int(self.decoder.config.num_attention_heads)
        self.n_kv_heads = int(self.decoder.config.num_key_value_heads)

    @property
    def rotary_axes(self) -> int:
        """Number of rotary axes: 3 (time, height, width) for M-RoPE, else 1."""
        return self.architecture.rotary_axes

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return self.embedding.weight.device

    def encode(
        self,
        token_ids: Int[Tensor, " pos"],
        pixel_values: Float[Tensor, "patch features"] | None,
        grid: Int[Tensor, "image 3"] | None,
    ) -> Encoded:
        """Turn a prompt into input embeddings and rotary positions (vision tower included)."""
        pixels = None if pixel_values is None else pixel_values.to(self.device)
        where = None if grid is None else grid.to(self.device)
        with torch.no_grad():
            return self.architecture.encode(self.model, token_ids.to(self.device), pixels, where)

    def embed(self, token_ids: Int[Tensor, " pos"]) -> Float[Tensor, "pos d_model"]:
        """Return the input embeddings of ordinary tokens."""
        return self.embedding(token_ids.to(self.device))

    def logits(self, states: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos vocab"]:
        """Return the logits that final-norm states give."""
        return self.unembedding(states)

    def new_cache(self) -> DynamicCache:
        """Return an empty key-value cache."""
        return DynamicCache(config=self.decoder.config)

    def fork_cache(self, cache: DynamicCache, length: int) -> DynamicCache:
        """Return a cache that shares the first `length` positions and grows on its own."""
        fork = self.new_cache()
        layers: Any = cache.layers
        for index, layer in enumerate(layers):
            fork.update(layer.keys[..., :length, :], layer.values[..., :length, :], index)
        return fork

    @contextmanager
    def session(self, plan: Plan, *, replaying: bool = False) -> Iterator["TorchSession"]:
        """Open a session that carries out `plan` on every chunk run through it."""
        session = TorchSession(self, plan, replaying=replaying)
        with ExitStack() as stack, torch.no_grad():
            session.hook(stack)
            yield session

    def fingerprint(self) -> str:
        """Return 16 hex digits that change when any weight does."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            data = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
            digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
            digest.update(memoryview(data))
        return digest.hexdigest()[:16]


@dataclass
class _Row:
    """Rows of one subset in the current chunk."""

    local: list[int]
    positions: tuple[int, ...]


@dataclass
class _State:
    """What the session knows of the chunk it is running."""

    layout: Layout
    first: int
    size: int
    count: bool
    rows: dict[Subset, _Row] = field(default_factory=dict)
    blocked: dict[int, Tensor | None] = field(default_factory=dict)


class TorchSession:
    """An open plan on a `TorchBackend`; see `backends.backend.Session`."""

    def __init__(self, backend: TorchBackend, plan: Plan, *, replaying: bool) -> None:
        self.backend, self.plan = backend, plan
        self.planned = check_plan(
            plan,
            backend.hook_points,
            n_layers=len(backend.layers),
            n_heads=backend.n_heads,
            replaying=replaying,
        )
        self.reads = {point.name for point in plan.reads}
        self.applied: list[set[int]] = [set() for _ in plan.edits]
        self.tensors: dict[str, Tensor] = {}
        self._state: _State | None = None

    # -- hooking ----------------------------------------------------------------------------------

    def hook(self, stack: ExitStack) -> None:
        """Register what the plan needs; `stack` takes it all away again."""
        points = [p for p in self.backend.hook_points if p.layer is not None and self._wanted(p)]
        cut = {layer for _, layers in self.planned.knockouts for layer in layers}
        if self.plan.inherent:
            cut = set(range(len(self.backend.layers)))
        cut |= {p.layer for p in points if p.kind == "attn.hook_pattern" and p.layer is not None}
        handlers: dict[nn.Module, AttentionHandler] = {
            attrgetter(self.backend.architecture.sites["attn.hook_pattern"].path)(
                self.backend.layers[layer]
            ): _LayerAttention(self, layer)
            for layer in sorted(cut)
        }
        stack.enter_context(handled(self.backend.decoder.config, handlers))
        for point in points:
            site = self.backend.architecture.sites[point.kind]
            if site.side != "pattern":
                stack.callback(self._register(point, site).remove)

    def _wanted(self, point: HookPoint) -> bool:
        return point.name in self.reads or point.name in self.planned.at

    def _register(self, point: HookPoint, site: Site) -> Any:
        assert point.layer is not None
        block = self.backend.layers[point.layer]
        module = attrgetter(site.path)(block) if site.path else block
        if site.side == "input":
            return module.register_forward_pre_hook(partial(self._on_input, point, site))
        return module.register_forward_hook(partial(self._on_output, point, site))

    def _on_input(self, point: HookPoint, site: Site, module: nn.Module, args: tuple) -> Any:
        tensor = self._visit(point, site, args[0])
        return None if tensor is args[0] else (tensor, *args[1:])

    def _on_output(
        self, point: HookPoint, site: Site, module: nn.Module, args: tuple, output: Any
    ) -> Any:
        if site.item is None:
            return self._visit(point, site, output)
        values = list(output)
        values[site.item] = self._visit(point, site, values[site.item])
        return tuple(values)

    # -- running ----------------------------------------------------------------------------------

    def forward(
        self, chunk: Chunk, cache: DynamicCache, *, count: bool = True
    ) -> Float[Tensor, "pos d_model"]:
        """Run a chunk on top of a cache (which grows) and return its final-norm states.

        Args:
            chunk: Positions to run, following those in the cache.
            cache: Keys and values of all earlier positions.
            count: Whether edits count the positions they touch here.
        """
        self._state = _State(chunk.layout, chunk.first, len(chunk.embeds), count)
        try:
            output = self.backend.decoder(
                inputs_embeds=chunk.embeds[None],
                position_ids=chunk.rotary[:, None],
                past_key_values=cache,
                use_cache=True,
            )
        finally:
            self._state = None
        return output.last_hidden_state[0]

    def edit_latent(self, name: str, vectors: Tensor, layout: Layout) -> Tensor:
        """Carry out the plan's edits at a `latent.*` point.

        Args:
            name: `latent.hook_state` or `latent.hook_fed`.
            vectors: One row per slot from the last one backwards: the last `len(vectors)` slots.
            layout: Layout up to and including these slots.
        """
        slots = layout.slots[-len(vectors) :]
        point = self.backend.hook_points[name]
        for number in self.planned.at.get(name, ()):
            edit = self.plan.edits[number]
            assert isinstance(edit, Edit)
            chosen = edit.where.mask(layout)
            rows = [index for index, slot in enumerate(slots) if chosen[slot]]
            if not rows:
                continue
            positions = tuple(slots[index] for index in rows)
            context = self._context(point, positions, layout, number)
            vectors = vectors.clone()
            vectors[rows] = apply_edit(edit, vectors[rows], context)
            self.applied[number].update(positions)
        return vectors

    # -- one hook point ---------------------------------------------------------------------------

    def _visit(self, point: HookPoint, site: Site, tensor: Tensor) -> Tensor:
        """Edit and read one activation ("1 pos d") of the current chunk."""
        for number in self.planned.at.get(point.name, ()):
            edit = self.plan.edits[number]
            assert isinstance(edit, Edit)
            rows = self._rows(edit.where)
            if rows.local:
                context = self._context(point, rows.positions, self._now.layout, number)
                edited = apply_edit(edit, self._split(tensor[0, rows.local], site), context)
                tensor = tensor if site.shared else tensor.clone()
                tensor[0, rows.local] = self._join(edited, site, edit)
                self._count(number, rows.positions)
        if point.name in self.reads:
            rows = self._rows(self.plan.where)
            self._store(point, self._split(tensor[0, rows.local], site))
        return tensor

    def _split(self, rows: Float[Tensor, "pos d"], site: Site) -> Tensor:
        """Split heads off the last axis; key-value heads are repeated for each query head."""
        if site.heads is None:
            return rows
        if site.heads == "query":
            return rearrange(rows, "pos (head d) -> pos head d", head=self.backend.n_heads)
        groups = self.backend.n_heads // self.backend.n_kv_heads
        return repeat(
            rows, "pos (kv d) -> pos (kv group) d", kv=self.backend.n_kv_heads, group=groups
        )

    def _join(self, rows: Tensor, site: Site, edit: Edit) -> Float[Tensor, "pos d"]:
        """Undo `_split`; query heads that share a key-value head must agree."""
        if site.heads is None:
            return rows
        if site.heads == "key_value":
            grouped = rearrange(rows, "p (kv group) d -> p kv group d", kv=self.backend.n_kv_heads)
            if not bool((grouped == grouped[:, :, :1]).all()):
                raise EditError(
                    f"{edit.label}: query heads that share a key-value head were given different "
                    f"keys or values ({self.backend.n_heads} query heads on "
                    f"{self.backend.n_kv_heads} key-value heads); edit whole groups alike"
                )
            rows = grouped[:, :, 0]
        return rearrange(rows, "pos head d -> pos (head d)")

    # -- bookkeeping ------------------------------------------------------------------------------

    @property
    def _now(self) -> _State:
        assert self._state is not None, "hooks fire only inside forward"
        return self._state

    def _rows(self, where: Subset) -> _Row:
        now = self._now
        if where not in now.rows:
            mask = where.mask(now.layout)[now.first : now.first + now.size]
            local = np.flatnonzero(mask).tolist()
            now.rows[where] = _Row(local, tuple(now.first + index for index in local))
        return now.rows[where]

    def _context(
        self, point: HookPoint, positions: tuple[int, ...], layout: Layout, number: int
    ) -> Context:
        edit = self.plan.edits[number]
        return Context(
            hook=point.name,
            layer=point.layer,
            axes=point.axes,
            positions=positions,
            roles=tuple(layout.roles[position] for position in positions),
            steps=tuple(layout.step(position) for position in positions),
            heads=None if edit.heads is None else tuple(edit.heads),
            seed=self.plan.seed,
            edit=number,
        )

    def _count(self, number: int, positions: tuple[int, ...]) -> None:
        if self._now.count:
            self.applied[number].update(positions)

    def _store(self, point: HookPoint, rows: Tensor) -> None:
        earlier = self.tensors.get(point.name)
        if earlier is not None:
            rows = torch.cat([earlier, rows], dim=point.row_axis)
        self.tensors[point.name] = rows

    def blocked(self, layer: int) -> Bool[Tensor, "head query key"] | None:
        """Return the edges knocked out of one layer on the current chunk, or None."""
        now = self._now
        if layer not in now.blocked:
            now.blocked[layer] = self._block(layer)
        return now.blocked[layer]

    def _block(self, layer: int) -> Tensor | None:
        chosen: list[tuple[int | None, Knockout]] = [(None, e) for e in self.plan.inherent]
        for number, layers in self.planned.knockouts:
            if layer in layers:
                edges = self.plan.edits[number]
                assert isinstance(edges, Knockout)
                chosen.append((number, edges))
        now = self._now
        total = now.first + now.size
        causal = np.arange(total)[None] <= np.arange(now.first, total)[:, None]
        blocked = np.zeros((1, now.size, total), dtype=bool)
        for number, edges in chosen:
            cut = np.outer(edges.queries.mask(now.layout)[now.first :], edges.keys.mask(now.layout))
            cut &= causal
            if edges.heads is not None and blocked.shape[0] == 1:
                blocked = np.repeat(blocked, self.backend.n_heads, axis=0)
            heads = slice(None) if edges.heads is None else list(edges.heads)
            fresh = cut & ~blocked[heads]  # edges that were still there ("head query key")
            blocked[heads] |= cut
            if number is not None:
                rows = np.flatnonzero(fresh.any(axis=(0, 2))).tolist()
                self._count(number, tuple(now.first + row for row in rows))
        if not blocked.any():
            return None
        self._refuse_blind_rows(blocked, causal, layer)
        return torch.from_numpy(blocked).to(self.backend.device)

    def _refuse_blind_rows(self, blocked: np.ndarray, causal: np.ndarray, layer: int) -> None:
        blind = np.flatnonzero((~(causal & ~blocked).any(axis=-1)).any(axis=0))
        if len(blind):
            positions = [int(self._now.first + index) for index in blind]
            raise EditError(
                f"the knockouts leave positions {positions} of layer {layer} nothing to attend to; "
                "keep at least one key, for instance by leaving out the positions themselves"
            )

    def pattern_rows(self, point: HookPoint) -> list[int]:
        """Return the chunk's rows whose attention weights somebody reads or edits."""
        wanted: set[int] = set()
        if point.name in self.reads:
            wanted.update(self._rows(self.plan.where).local)
        for number in self.planned.at.get(point.name, ()):
            wanted.update(self._rows(self._edit(number).where).local)
        return sorted(wanted)

    def visit_pattern(self, point: HookPoint, weights: Tensor) -> Tensor:
        """Edit and read attention weights of `pattern_rows` ("head query key")."""
        place = {row: index for index, row in enumerate(self.pattern_rows(point))}
        for number in self.planned.at.get(point.name, ()):
            edit, rows = self._edit(number), self._rows(self._edit(number).where)
            if rows.local:
                index = [place[row] for row in rows.local]
                context = self._context(point, rows.positions, self._now.layout, number)
                edited = apply_edit(edit, weights[:, index], context)
                _refuse_the_future(edit, edited, rows.positions)
                weights = weights.clone()
                weights[:, index] = edited
                self._count(number, rows.positions)
        if point.name in self.reads:
            index = [place[row] for row in self._rows(self.plan.where).local]
            self._store(point, weights[:, index].clone())
        return weights

    def _edit(self, number: int) -> Edit:
        edit = self.plan.edits[number]
        assert isinstance(edit, Edit)
        return edit


def _refuse_the_future(edit: Edit, weights: Tensor, positions: tuple[int, ...]) -> None:
    """Refuse attention weights on keys that come after the query."""
    keys = torch.arange(weights.shape[-1], device=weights.device)
    later = keys[None] > torch.tensor(positions, device=weights.device)[:, None]
    if bool((weights * later).any()):
        raise EditError(
            f"{edit.label}: the edited pattern puts weight on keys after the query, which the "
            "model cannot attend to; keep zero where the activation is zero, for instance by "
            "multiplying by (activation > 0)"
        )


class _LayerAttention:
    """One layer's `AttentionHandler`: asks the session."""

    def __init__(self, session: TorchSession, layer: int) -> None:
        self.session, self.layer = session, layer
        self.point = session.backend.hook_points[f"blocks.{layer}.attn.hook_pattern"]

    def blocked(self) -> Bool[Tensor, "head query key"] | None:
        return self.session.blocked(self.layer)

    def rows(self) -> list[int]:
        return self.session.pattern_rows(self.point)

    def pattern(self, weights: Float[Tensor, "head query key"]) -> Tensor:
        return self.session.visit_pattern(self.point, weights)
