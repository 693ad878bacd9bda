"""The names of a vision transformer's tensors in four collections, and timm's for export."""

from typing import NamedTuple

from resjax.models.tokens import PatchEmbedding, TokenHead
from resjax.models.transformer import Attention, Mlp, NormedUnit, TransformerLayer
from resjax.network import Network
from resjax.network.unit import Unit
from resjax.pretrained.places import Module, Naming


class VitNames(NamedTuple):
    """Names of layers and, where that is said, of tensors; {i} is the number of a layer of the transformer.

    A name that ends with _ is joined to those of its tensors without a dot.
    """

    patch: str  # the convolution
    class_token: str  # a tensor
    positions: str  # a tensor
    input_norm: str  # in front of the first layer (CLIP)
    layer: str  # the prefix of a layer, of which the following are parts
    attention_norm: str
    qkv: tuple[str, ...]  # one layer, or those of queries, keys and values
    out: str
    mlp_norm: str
    inner: str
    outer: str
    scales: tuple[str, str]  # the layer scales of attention and MLP, tensors
    norm: str  # behind the last layer
    pooled_norm: str  # behind the mean of all patches
    representation: str
    head: str
    leaves: tuple[str, str] = ("weight", "weight")  # the weights of a layer, and of a LayerNorm

    def of_layer(self, i: int, name: str) -> str:
        """The name of part ``name`` of layer ``i``."""
        return f"{self.layer.format(i=i)}.{name}"

    def tensor(self, layer: str, leaf: str) -> str:
        """The name of an array of ours, 'kernel', 'scale' or 'bias', of a layer."""
        kernel, scale = self.leaves
        dot = "" if layer.endswith("_") else "."
        return f"{layer}{dot}{ {'kernel': kernel, 'scale': scale}.get(leaf, leaf) }"

    @property
    def marker(self) -> str:
        """A tensor that every network with these names has: the weights of its patches."""
        return self.tensor(self.patch, "kernel")

    @property
    def first(self) -> str:
        """The weights of the first layer's attention, of the queries if these are apart."""
        return self.tensor(self.of_layer(0, self.qkv[0]), "kernel")


TIMM = VitNames(
    patch="patch_embed.proj", class_token="cls_token", positions="pos_embed", input_norm="norm_pre",
    layer="blocks.{i}", attention_norm="norm1", qkv=("attn.qkv",), out="attn.proj", mlp_norm="norm2",
    inner="mlp.fc1", outer="mlp.fc2", scales=("ls1.gamma", "ls2.gamma"), norm="norm", pooled_norm="fc_norm",
    representation="pre_logits.fc", head="head",
)  # fmt: skip
TORCHVISION = VitNames(
    patch="conv_proj", class_token="class_token", positions="encoder.pos_embedding", input_norm="",
    layer="encoder.layers.encoder_layer_{i}", attention_norm="ln_1", qkv=("self_attention.in_proj_",),
    out="self_attention.out_proj", mlp_norm="ln_2", inner="mlp.0", outer="mlp.3", scales=("", ""),
    norm="encoder.ln", pooled_norm="", representation="heads.pre_logits", head="heads.head",
)  # fmt: skip
# As its published files have them.
TORCHVISION_FIRST = TORCHVISION._replace(inner="mlp.linear_1", outer="mlp.linear_2")
HUGGING_FACE = VitNames(
    patch="vit.embeddings.patch_embeddings.projection", class_token="vit.embeddings.cls_token",
    positions="vit.embeddings.position_embeddings", input_norm="", layer="vit.encoder.layer.{i}",
    attention_norm="layernorm_before",
    qkv=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    out="attention.output.dense", mlp_norm="layernorm_after", inner="intermediate.dense",
    outer="output.dense", scales=("", ""), norm="vit.layernorm", pooled_norm="",
    representation="vit.pooler.dense", head="classifier",
)  # fmt: skip
# Of the modules in transformers from version 5 on, whose files have the names above.
HUGGING_FACE_5 = HUGGING_FACE._replace(
    layer="vit.layers.{i}", qkv=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    out="attention.o_proj", inner="mlp.fc1", outer="mlp.fc2",
)  # fmt: skip
# Of google-research/vision_transformer (ViT, AugReg), which counts all modules of a layer together.
JAX = VitNames(
    patch="embedding", class_token="cls", positions="Transformer.posembed_input.pos_embedding", input_norm="",
    layer="Transformer.encoderblock_{i}", attention_norm="LayerNorm_0",
    qkv=tuple(f"MultiHeadDotProductAttention_1.{name}" for name in ("query", "key", "value")),
    out="MultiHeadDotProductAttention_1.out", mlp_norm="LayerNorm_2", inner="MlpBlock_3.Dense_0",
    outer="MlpBlock_3.Dense_1", scales=("", ""), norm="Transformer.encoder_norm", pooled_norm="",
    representation="pre_logits", head="head", leaves=("kernel", "scale"),
)  # fmt: skip
# google-research/big_vision counts those of each kind.
BIG_VISION = JAX._replace(
    positions="pos_embedding", mlp_norm="LayerNorm_1",
    qkv=tuple(f"MultiHeadDotProductAttention_0.{name}" for name in ("query", "key", "value")),
    out="MultiHeadDotProductAttention_0.out", inner="MlpBlock_0.Dense_0", outer="MlpBlock_0.Dense_1",
)  # fmt: skip


def vit(network: Network, names: VitNames) -> Naming:
    """The names of all arrays of a vision transformer. Its layers are counted as they are now, without gaps.

    A layer counts if attention or MLP is left of it.
    """
    layers = layers_of(network)
    pooled = isinstance(network.head, TokenHead) and network.head.pool == "patches"
    outside = {
        ("stem", "conv"): names.patch,
        ("stem", "norm"): names.input_norm,
        ("head", "norm"): names.pooled_norm if pooled else names.norm,
        ("head", "representation"): names.representation,
        ("head", "classifier"): names.head,
    }
    inside = {"out": names.out, "inner": names.inner, "outer": names.outer}

    def tensors(module: Module, leaf: str) -> tuple[str, ...]:
        part, row, path = module
        if part == "stem" and not path:
            return ({"class_token": names.class_token, "positions": names.positions}[leaf],)
        if part in ("stem", "head"):
            return (names.tensor(outside[part, path[0]], leaf),)
        i = layers[part, row]
        kind, *rest = path if part == "layers" else (part, *path)
        if rest[0] == "scale":
            return (names.of_layer(i, names.scales[kind == "mlp"]),)
        if rest[-1] == "qkv":
            return tuple(names.tensor(names.of_layer(i, one), leaf) for one in names.qkv)
        norm = names.mlp_norm if kind == "mlp" else names.attention_norm
        return (names.tensor(names.of_layer(i, inside.get(rest[-1], norm)), leaf),)

    return tensors


def layers_of(network: Network) -> dict[tuple[str, int], int]:
    """{(part, row) of a unit: the number of its layer}."""
    # A stack of one attention or MLP keeps the number of its layer when others are cut.
    places = {(u.part, u.row): (u.stack.name.removeprefix(u.part), u.position) for u in network.units}
    order = {layer: i for i, layer in enumerate(dict.fromkeys(places.values()))}
    return {place: order[layer] for place, layer in places.items()}


def is_vit(network: Network) -> bool:
    """Whether these are the parts of a vision transformer with LayerNorm in front of its branches."""
    return (
        isinstance(network.stem, PatchEmbedding)
        and isinstance(network.head, TokenHead)
        and all(branches(stack.unit) for stack in network.stacks)
    )


def branches(unit: Unit) -> dict[str, NormedUnit]:
    """{'attention' or 'mlp': its unit} in one unit of a vision transformer; {} for other units."""
    if isinstance(unit, TransformerLayer):
        return {"attention": unit.attention, "mlp": unit.mlp}
    if isinstance(unit, NormedUnit) and unit.placement == "pre":
        kinds = {"attention": Attention, "mlp": Mlp}
        return {kind: unit for kind, of in kinds.items() if isinstance(unit.branch, of)}
    return {}
