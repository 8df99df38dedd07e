"""Dimensions of a backbone: plain numbers, for closed forms and for what fits what.

Legend: D hidden size, V vocabulary, H heads, K head size, F feed-forward size.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum


class SublayerKind(StrEnum):
    """The residual branches of a transformer layer."""

    SELF_ATTENTION = "self_attention"
    CROSS_ATTENTION = "cross_attention"
    FEED_FORWARD = "feed_forward"


@dataclass(frozen=True, kw_only=True)
class StackDims:
    """Dimensions of one stack of layers."""

    layers: int
    sublayers: tuple[SublayerKind, ...]  # of every layer, in order
    relative_position_buckets: int = 0  # entries, a head, of the stack's own bias table
    position_vectors: int = 0  # of width D: the stack's own relative positions, with their norm
    final_norm: bool = True  # one norm after the last layer
    layer_norms: int | None = None  # of width D in a layer, where not one a sublayer

    @property
    def attentions(self) -> int:
        """Attention sublayers in the whole stack."""
        return self.layers * sum(kind is not SublayerKind.FEED_FORWARD for kind in self.sublayers)

    @property
    def norms(self) -> int:
        """Norms in the whole stack: those of its layers, and the final one."""
        return self.layers * self.norms_of_layer + self.final_norm

    @property
    def norms_of_layer(self) -> int:
        """Norms of width D in one layer."""
        return len(self.sublayers) if self.layer_norms is None else self.layer_norms


@dataclass(frozen=True, kw_only=True)
class Loose:
    """What was counted in a model whose layers have no ports."""

    shapes: Mapping[str, tuple[tuple[int, int], ...]]  # of projections, by role: inputs, outputs
    bias_terms: int
    norm_parameters: int
    holders: Mapping[str, str | None]  # by each of q, k and v that is missing: what makes it


@dataclass(frozen=True, kw_only=True)
class Dims:
    """Dimensions of a backbone, for closed forms."""

    hidden_size: int  # D
    num_heads: int  # H
    num_key_value_heads: int  # fewer than H where query heads share keys and values
    head_size: int  # K; the inner width H * K need not equal D
    feed_forward_size: int  # F
    feed_forward_inputs: int  # matrices D -> F: 1, or 2 when gated
    vocabulary_size: int  # V
    dropout: float  # after embeddings and on residual branches
    biased: frozenset[str] = frozenset()  # roles of projections with a bias: q, k, v, o, wi, wo
    head_norms: int = 0  # vectors of width K in an attention: norms of its queries and keys
    norm_vectors: int = 1  # vectors of width D in a norm: 1 scale, or 2 with a shift
    stacks: dict[str, StackDims]  # "encoder", "decoder": in the order they run
    outside_parameters: int  # outside of the stacks: embeddings with their norms, pooler, own head
    labels: int = 0  # outputs of the task head
    task_head_parameters: int = 0  # new with the task, trained by every method
    language_head: bool = True  # the head has one output a token of the vocabulary
    split_heads: bool = False  # a head is D / H wide by definition, also in a thin layer
    loose: Loose | None = None  # of a backbone without stacks
    # Projections that make several roles at once, by their own name: c_attn makes q, k and v.
    fused: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rotary: bool = False  # positions turn pairs of a head's units, so K is even
    rotary_share: float = 1.0  # of a head's units that positions turn
    longest: int | None = None  # most tokens of a sequence; None where positions have no end
    named_attention: bool = True  # looked up by name, so that a method may take its place
    # Of ExtraInput's embedding: new with the task, trained by every method beside its own.
    extra_input_parameters: int = 0
    extra_input_norms: int = 0  # of width D, among them

    @property
    def inner_size(self) -> int:
        """Width of the concatenated heads, H * K."""
        return self.num_heads * self.head_size

    @property
    def shared_size(self) -> int:
        """Width of the concatenated keys, or values."""
        return self.num_key_value_heads * self.head_size

    @property
    def fills_masks(self) -> bool:
        """A language head on an encoder alone: it tells hidden tokens and generates nothing."""
        return self.language_head and set(self.stacks) == {"encoder"}

    @property
    def uncut(self) -> str | None:
        """Why thin layers cannot be cut out of these, matrix by matrix; None if they can."""
        if self.fused:
            return f"{next(iter(self.fused))} is several projections in one, which are not cut"
        for stack in self.stacks.values():
            if stack.norms_of_layer != len(stack.sublayers):
                return "norms that are not one a branch are not cut"
            if stack.position_vectors:
                return "a table of relative positions is not cut"
        return None

    @property
    def norm_parameters(self) -> int:
        """Entries of all norms of the stacks, final ones included."""
        if self.loose is not None:
            return self.loose.norm_parameters
        return (
            sum(stack.norms for stack in self.stacks.values()) * self.norm_vectors
        ) * self.hidden_size

    @property
    def num_sublayers(self) -> int:
        """Residual branches in all stacks; each has one norm."""
        return sum(stack.layers * len(stack.sublayers) for stack in self.stacks.values())

    @property
    def attentions(self) -> int:
        """Attention sublayers in all stacks."""
        return sum(stack.attentions for stack in self.stacks.values())

    @property
    def total_parameters(self) -> int:
        """All of the pretrained backbone, tied ones once; a new task head is not in it."""
        stacks = sum(
            stack.layers * self.layer_parameters(name)
            + stack.relative_position_buckets * self.num_heads
            + stack.position_vectors * self.hidden_size
            + stack.final_norm * self.norm_vectors * self.hidden_size
            for name, stack in self.stacks.items()
        )
        return stacks + self.outside_parameters

    @property
    def bias_terms(self) -> int:
        """Entries of one bias for each projection, sublayer norm and language head.

        T5-base with a vocabulary of 32,100: 12 * 8,448 + 12 * 12,288 + 32,100 = 280,932.
        """
        if self.loose is not None:
            return self.loose.bias_terms
        in_attention = sum(self.output_size(role) for role in ("q", "k", "v", "o"))
        in_feed_forward = self.feed_forward_inputs * self.feed_forward_size + self.hidden_size
        return (
            self.attentions * in_attention
            + sum(stack.layers for stack in self.stacks.values()) * in_feed_forward
            + self._branch_norms * self.hidden_size
            + self.language_head * self.vocabulary_size
        )

    @property
    def _branch_norms(self) -> int:
        """Norms of sublayers, one that two share once; none where they have no vectors."""
        stacks = self.stacks.values() if self.norm_vectors else ()
        return sum(s.layers * min(s.norms_of_layer, len(s.sublayers)) for s in stacks)

    def above(self, lower: int) -> "Dims":
        """What is left without the lowest `lower` layers and what goes with them: `Ports.above`.

        A stack's position table goes with its first layer, its final norm with its last one.
        """
        stacks = {}
        for name, stack in self.stacks.items():
            gone = min(lower, stack.layers)
            lower -= gone
            stacks[name] = replace(
                stack,
                layers=stack.layers - gone,
                relative_position_buckets=0 if gone else stack.relative_position_buckets,
                final_norm=stack.final_norm and gone < stack.layers,
            )
        return replace(self, stacks=stacks)

    def layer_parameters(self, stack: str, reduction: int = 1) -> int:
        """Parameters of one layer of `stack`, position tables apart, its widths / `reduction`."""
        D, F = self.hidden_size // reduction, self.feed_forward_size // reduction
        K = self.head_size // reduction
        inner, shared = self.num_heads * K, self.num_key_value_heads * K
        outputs = {"q": inner, "k": shared, "v": shared, "o": D, "wi": F, "wo": D}
        biases = {role: size * (role in self.biased) for role, size in outputs.items()}
        attention = 2 * D * inner + 2 * D * shared + sum(biases[role] for role in "qkvo")
        attention += self.head_norms * K
        feed_forward = self.feed_forward_inputs * (D * F + biases["wi"]) + F * D + biases["wo"]
        norms = self.stacks[stack].norms_of_layer * self.norm_vectors * D
        return norms + sum(
            feed_forward if kind is SublayerKind.FEED_FORWARD else attention
            for kind in self.stacks[stack].sublayers
        )

    @property
    def roles(self) -> tuple[str, ...]:
        """Roles of projections."""
        if self.loose is not None:
            return tuple(self.loose.shapes)
        inputs = ("wi",) if self.feed_forward_inputs == 1 else ("wi_0", "wi_1")
        plain = ("q", "k", "v", "o", *inputs, "wo")
        holders = {role: name for name, made in self.fused.items() for role in made}
        return tuple(dict.fromkeys(holders.get(role, role) for role in plain))

    def shapes(self, role: str) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of every projection `role` of the backbone."""
        if self.loose is not None:
            return self.loose.shapes.get(role, ())
        feed_forwards = self.num_sublayers - self.attentions
        made = self.fused.get(role, (role,))
        count = feed_forwards if made[0].startswith("w") else self.attentions
        return ((self.input_size(made[0]), sum(map(self.output_size, made))),) * count

    def lacks(self, targets: Iterable[str]) -> str | None:
        """For `unsupported`: the first of `targets` that is no projection here, or None."""
        for target in targets:
            if target not in self.roles:
                return f"no projection {target!r} for targets; here are: {', '.join(self.roles)}"
        return None

    def nearest(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """`targets`; for a q, k or v that is no projection here, the one that makes it.

        That may be one for all three. Where none does, as without attention, every projection
        but outputs: peft refuses Mamba's, which its kernels pass by.
        """
        if set(targets) - set("qkv") or self.lacks(targets) is None:
            return targets
        holders: Mapping[str, str | None] = {
            role: name for name, made in self.fused.items() for role in made
        }
        if self.loose is not None:
            holders = self.loose.holders
        found = [holders.get(target, target) for target in targets]
        named = tuple(dict.fromkeys(name for name in found if name is not None))
        if None not in found:
            return named
        return tuple(role for role in self.roles if role != "o") or self.roles

    def output_size(self, role: str) -> int:
        """Rows of the projection `role`: q, k, v, o, wi (or wi_0, wi_1), wo."""
        if role in {"k", "v"}:
            return self.shared_size
        if role.startswith("wi"):
            return self.feed_forward_size
        return self.inner_size if role == "q" else self.hidden_size

    def input_size(self, role: str) -> int:
        """Columns of the projection `role`."""
        return {"o": self.inner_size, "wo": self.feed_forward_size}.get(role, self.hidden_size)
