"""A detrim file as a PyTorch module, and a PyTorch module as a detrim file.

    from detrim_torch import load, save
    model = load("models/deimv2-femto.safetensors")
    output = model(pixel_values)                   # [batch, 3, height, width] → output.logits, output.boxes
    save(model, "again.safetensors")

    python detrim_torch.py models/deimv2-femto.safetensors www/samples/chelsea.png

One file, with all of the DETR family that detrim has: DETR (ResNet, EfficientNet-Lite), RT-DETR and RT-DETRv2 (ResNet-vd), D-FINE and DEIMv2
(HGNetV2). The config in the file's header says which layers there are, and every width is taken from the tensors, so a pruned file needs nothing
special. Parameters have the names of the file's tensors, which docs/file-format.md lists; feature maps are [batch, channels, height, width].
Needs torch, safetensors, numpy and pillow.
"""
import json
import math
import os
import sys
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

LAYER_NORM_EPSILON, RMS_NORM_EPSILON = 1e-5, 1e-6
# The bounds that `inverse_sigmoid(x, eps=1e-5)` gives a logit.
LOGIT_BOUND = 11.512925
# An anchor's side on the first level, in fractions of the image; one nearer to the image's edge than the margin takes no part.
ANCHOR, ANCHOR_MARGIN = 0.05, 0.01

ACTIVATIONS = {
    "none": lambda x: x, "relu": F.relu, "relu6": F.relu6, "gelu": F.gelu, "silu": F.silu, "sigmoid": torch.sigmoid,
}


@dataclass
class Output:
    """Of a batch of images."""
    logits: torch.Tensor                            # [batch, queries, classes]
    boxes: torch.Tensor                             # [batch, queries, 4]: centre x, centre y, width, height in fractions of the image
    layers: list = field(default_factory=list)      # (logits, boxes) of whatever training has losses for, the last decoder layer at the end
    maps: list = field(default_factory=list)        # feature maps [batch, channels, height, width], from backbone and encoder
    scores: torch.Tensor | None = None              # class logits of all tokens [batch, tokens, classes], where tokens become queries
    chosen: torch.Tensor | None = None              # the tokens that became queries, [batch, queries]
    named: dict = field(default_factory=dict)       # every activation that `detrim forward` names


# ---------------------------------------------------------------------------------------------------------------------------- the file


def read(path):
    """The header and the tensors of a detrim file, int8 multiplied by its scales: ({version, config, card}, {name: f32 tensor})."""
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("detrim")
        if text is None:
            raise ValueError(f"{path}: not a detrim model: its header has no `detrim` entry (`detrim convert` makes one)")
        header = json.loads(text)
        if header["version"] != 1:
            raise ValueError(f"{path}: its format is version {header['version']}, version 1 was expected")
        stored = {name: file.get_tensor(name) for name in file.keys()}
    tensors = {}
    for name, tensor in stored.items():
        if name.endswith(".scale"):
            continue
        value = tensor.float()
        if tensor.dtype == torch.int8:
            # A scale for each output channel: the last axis of a depthwise convolution [height, width, channels], else the first.
            scale = stored[name + ".scale"]
            value = value * (scale if tensor.dim() == 3 else scale.reshape(-1, *[1] * (tensor.dim() - 1)))
        tensors[name] = value
    return header, tensors


def load(path):
    """The network in a detrim file, ready to detect or to be trained; f32."""
    header, tensors = read(path)
    build = RtDetr if "model_type" in header["config"] else Detr
    model = build(header["config"], Tensors(tensors, header["config"].get("sizes", {})))
    model.header = header
    unknown = set(tensors) ^ set(model.state_dict())
    if unknown:
        raise ValueError(f"{path}: tensors and config don't go together: {sorted(unknown)[:3]}")
    return model.eval()


def save(model, path, dtype=torch.float32, provenance=None):
    """Writes a network as a detrim file, which appears whole or not at all. With torch.float16 biases, norms and box references stay f32, as
    `detrim convert` has it (which also makes int8 of either). `provenance`: a sentence for the model's metadata, say how it was trained."""
    header = json.loads(json.dumps(model.header))
    if provenance:
        header["card"].setdefault("provenance", []).append(provenance)
    tensors = {}
    modules = dict(model.named_modules())
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().float().cpu()
        module = modules[name.rpartition(".")[0]]
        if isinstance(module, Conv) and name.endswith(".weight"):
            # Channels last: [out, height, width, in], depthwise [height, width, channels].
            tensor = tensor.squeeze(1).permute(1, 2, 0) if module.depthwise else tensor.permute(0, 2, 3, 1)
        if not tensor.isfinite().all():
            raise ValueError(f"{name} holds a number that isn't finite: training has diverged")
        small = tensor.dim() > 1 and name != "box_reference"
        tensors[name] = tensor.to(dtype if small else torch.float32).contiguous()
    unfinished = f"{path}.{os.getpid()}"
    try:
        save_file(tensors, unfinished, metadata={"detrim": json.dumps(header, ensure_ascii=False)})
        os.replace(unfinished, path)
    finally:
        if os.path.exists(unfinished):
            os.remove(unfinished)


class Tensors:
    """Where a part of the network finds its weights: all tensors whose names begin with its prefix; and the config's `sizes`, what pruning left."""

    def __init__(self, tensors, sizes, prefix=""):
        self.tensors, self.sizes, self.prefix = tensors, sizes, prefix

    def part(self, name):
        return Tensors(self.tensors, self.sizes, f"{self.prefix}{name}.")

    def size(self, name, default):
        """For what no tensor's shape tells: heads, sampling points, and how a layer's output is divided."""
        return self.sizes.get(self.prefix + name, default)

    def has(self, name):
        return any(tensor.startswith(self.prefix + name) for tensor in self.tensors)

    def take(self, name):
        name = self.prefix + name
        if name not in self.tensors:
            raise ValueError(f"tensor {name} is missing")
        return self.tensors[name]

    def parameter(self, name):
        return nn.Parameter(self.take(name))

    def linear(self, name):
        weight = self.take(f"{name}.weight")
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight, layer.bias = nn.Parameter(weight), self.parameter(f"{name}.bias")
        return layer

    def norm(self, name):
        """A layer norm, or without a bias an RMS norm."""
        weight, bias = self.parameter(f"{name}.weight"), self.has(f"{name}.bias")
        layer = nn.LayerNorm(len(weight), LAYER_NORM_EPSILON) if bias else nn.RMSNorm(len(weight), RMS_NORM_EPSILON)
        layer.weight = weight
        if bias:
            layer.bias = self.parameter(f"{name}.bias")
        return layer


# ------------------------------------------------------------------------------------------------------------------------------ layers


class Conv(nn.Module):
    """A convolution into which batch norm is folded; then a residual, an activation, and HGNetV2's learnt scale and shift, where there are any.
    `same`: TensorFlow's padding, which puts the odd one below and on the right."""

    def __init__(self, tensors, stride=1, activation="none", dilation=1, same=False):
        super().__init__()
        weight = tensors.take("weight")
        self.depthwise = weight.dim() == 3
        self.weight = nn.Parameter((weight.permute(2, 0, 1).unsqueeze(1) if self.depthwise else weight.permute(0, 3, 1, 2)).contiguous())
        self.bias = tensors.parameter("bias")
        self.affine = tensors.parameter("affine") if tensors.has("affine") else None
        self.stride, self.activation, self.dilation, self.same = stride, activation, dilation, same

    @property
    def width(self):
        return self.weight.shape[0]

    def forward(self, x, residual=None):
        kernel = self.weight.shape[2:]
        if self.same:
            x, padding = pad_same(x, kernel, self.stride), 0
        else:
            padding = [(side - 1) // 2 * self.dilation for side in kernel]
        x = F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.width if self.depthwise else 1)
        x = ACTIVATIONS[self.activation](x if residual is None else x + residual)
        return x if self.affine is None else x * self.affine[0] + self.affine[1]


def pad_same(x, kernel, stride):
    padding = []
    for side, reach in zip(x.shape[:1:-1], kernel[::-1]):
        total = max((math.ceil(side / stride) - 1) * stride + reach - side, 0)
        padding += [total // 2, total - total // 2]
    return F.pad(x, padding)


class Mlp(nn.ModuleList):
    """Linear layers `0`, `1`… with an activation between them."""

    def __init__(self, tensors, activation="relu"):
        count = 0
        while tensors.has(f"{count}."):
            count += 1
        super().__init__(tensors.linear(str(i)) for i in range(count))
        self.activation = ACTIVATIONS[activation]

    def forward(self, x):
        for i, layer in enumerate(self):
            x = layer(x) if i + 1 == len(self) else self.activation(layer(x))
        return x


class Attention(nn.Module):
    """Multi-head attention. Heads may have any width, values another one than keys."""

    def __init__(self, tensors, heads):
        super().__init__()
        self.query, self.key, self.value, self.output = (tensors.linear(name) for name in ("query", "key", "value", "output"))
        self.heads = tensors.size("heads", heads)

    def forward(self, queries, keys, values, bias=None):
        """All [batch, number, d_model]; `bias` is added to the scores [batch, 1, queries, keys]."""
        split = lambda x: x.unflatten(2, (self.heads, -1)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(split(self.query(queries)), split(self.key(keys)), split(self.value(values)), bias)
        return self.output(mixed.transpose(1, 2).flatten(2))


class EncoderLayer(nn.Module):
    """Post-norm, or pre-norm as RT-DETR in transformers has it: the feed-forward network's result is added to its normalised input."""

    def __init__(self, tensors, heads, activation, normalize_before=False):
        super().__init__()
        self.normalize_before = normalize_before
        self.self_attention = Attention(tensors.part("self_attention"), heads)
        self.norm1, self.norm2 = tensors.norm("norm1"), tensors.norm("norm2")
        self.ffn1, self.ffn2 = tensors.linear("ffn1"), tensors.linear("ffn2")
        self.activation = ACTIVATIONS[activation]

    def forward(self, x, position, bias=None):
        if self.normalize_before:
            normal = self.norm1(x)
            placed = normal + position
            x = self.norm2(x + self.self_attention(placed, placed, normal, bias))
            return x + self.ffn2(self.activation(self.ffn1(x)))
        placed = x + position
        x = self.norm1(x + self.self_attention(placed, placed, x, bias))
        return self.norm2(x + self.ffn2(self.activation(self.ffn1(x))))


# -------------------------------------------------------------------------------------------------------------------------------- DETR


class ResNet(nn.Module):
    """torchvision's, without its head."""

    def __init__(self, config, tensors):
        super().__init__()
        self.stem = Conv(tensors.part("stem"), 2, "relu")
        for s, stage in enumerate(config["stages"]):
            blocks = (ResNetBlock(block, tensors.part(f"stage{s + 1}.block{b}")) for b, block in enumerate(stage["blocks"]))
            self.add_module(f"stage{s + 1}", nn.ModuleDict({f"block{b}": block for b, block in enumerate(blocks)}))

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 3, 2, 1)
        for stage in list(self.children())[1:]:
            for block in stage.values():
                x = block(x)
        return x


class ResNetBlock(nn.Module):
    """Basic (two 3×3 convolutions) or bottleneck (1×1, 3×3, 1×1)."""

    def __init__(self, config, tensors):
        super().__init__()
        stride, dilation = config["stride"], config["dilation"]
        if len(config["inner"]) == 1:
            second = config.get("second_dilation") or dilation
            self.conv1 = Conv(tensors.part("conv1"), stride, "relu", dilation)
            self.conv2 = Conv(tensors.part("conv2"), 1, "relu", second)
        else:
            self.conv1 = Conv(tensors.part("conv1"), 1, "relu")
            self.conv2 = Conv(tensors.part("conv2"), stride, "relu", dilation)
            self.conv3 = Conv(tensors.part("conv3"), 1, "relu")
        self.projection = Conv(tensors.part("projection"), stride) if config["projection"] else None

    def forward(self, x):
        shortcut = x if self.projection is None else self.projection(x)
        if not hasattr(self, "conv3"):
            return self.conv2(self.conv1(x), shortcut)
        return self.conv3(self.conv2(self.conv1(x)), shortcut)


class EfficientNetLite(nn.Module):
    """timm's tf_efficientnet_lite0, without its head."""

    def __init__(self, config, tensors):
        super().__init__()
        self.stem = Conv(tensors.part("stem"), 2, "relu6", same=True)
        for s, stage in enumerate(config["stages"]):
            blocks = (InvertedResidual(block, tensors.part(f"stage{s}.block{b}")) for b, block in enumerate(stage))
            self.add_module(f"stage{s}", nn.ModuleDict({f"block{b}": block for b, block in enumerate(blocks)}))

    def forward(self, x):
        x = self.stem(x)
        for stage in list(self.children())[1:]:
            for block in stage.values():
                x = block(x)
        return x


class InvertedResidual(nn.Module):
    def __init__(self, config, tensors):
        super().__init__()
        self.expand = Conv(tensors.part("expand"), 1, "relu6", same=True) if config["expansion"] else None
        self.depthwise = Conv(tensors.part("depthwise"), config["stride"], "relu6", same=True)
        self.project = Conv(tensors.part("project"), same=True)
        self.residual = config["residual"]

    def forward(self, x):
        y = x if self.expand is None else self.expand(x)
        return self.project(self.depthwise(y), x if self.residual else None)


def sine_position(mask, d_model):
    """DETR's position embedding [batch, height * width, d_model] of a mask [batch, height, width], true where the image is."""
    half = d_model // 2
    divisors = 10000 ** (2 * (torch.arange(half, device=mask.device) // 2) / half)
    angles = []
    for axis in (1, 2):
        count = mask.cumsum(axis, dtype=torch.float32)
        place = count / (mask.sum(axis, keepdim=True) + 1e-6) * 2 * math.pi
        angle = place[..., None] / divisors
        angles.append(torch.where(torch.arange(half, device=mask.device) % 2 == 0, angle.sin(), angle.cos()))
    return torch.cat(angles, -1).flatten(1, 2)


class DetrDecoderLayer(nn.Module):
    """A first layer may be folded: it has no self-attention, since that would give the same for every image."""

    def __init__(self, config, tensors, activation):
        super().__init__()
        self.self_attention = None
        if config.get("self_attention"):
            self.self_attention = Attention(tensors.part("self_attention"), config["self_attention"]["heads"])
            self.norm1 = tensors.norm("norm1")
        self.cross_attention = Attention(tensors.part("cross_attention"), config["cross_attention"]["heads"])
        self.norm2, self.norm3 = tensors.norm("norm2"), tensors.norm("norm3")
        self.ffn1, self.ffn2 = tensors.linear("ffn1"), tensors.linear("ffn2")
        self.activation = ACTIVATIONS[activation]

    def forward(self, x, position, memory, placed_memory, bias):
        if self.self_attention is not None:
            placed = x + position
            x = self.norm1(x + self.self_attention(placed, placed, x))
        x = self.norm2(x + self.cross_attention(x + position, placed_memory, memory, bias))
        return self.norm3(x + self.ffn2(self.activation(self.ffn1(x))))


class Detr(nn.Module):
    """End-to-End Object Detection with Transformers (Carion et al., 2020)."""

    def __init__(self, config, tensors):
        super().__init__()
        self.config, activation = config, config["activation"]
        backbone = {"resnet": ResNet, "efficient-net-lite": EfficientNetLite}[config["backbone"]["kind"]]
        self.backbone = backbone(config["backbone"], tensors.part("backbone"))
        self.input_projection = tensors.linear("input_projection")
        self.encoder = nn.ModuleList(
            EncoderLayer(tensors.part(f"encoder.{i}"), layer["self_attention"]["heads"], activation) for i, layer in enumerate(config["encoder"]))
        self.decoder = nn.ModuleDict(
            {str(i): DetrDecoderLayer(layer, tensors.part(f"decoder.{i}"), activation) for i, layer in enumerate(config["decoder"])})
        self.decoder.add_module("norm", tensors.norm("decoder.norm"))
        self.query_position = tensors.parameter("query_position")
        self.query_content = tensors.parameter("query_content") if config.get("query_content") else None
        self.box_reference = tensors.parameter("box_reference") if config.get("box_reference") else None
        self.class_head = tensors.linear("class_head")
        self.box_head = Mlp(tensors.part("box_head"))

    def forward(self, pixels, mask=None, chosen=None):
        """`pixels` [batch, 3, height, width]; `mask` [batch, height, width], true where the image is, for a padded batch."""
        named = {}
        features = named["backbone"] = self.backbone(pixels)
        batch, _, height, width = features.shape
        if mask is None:
            mask = torch.ones(batch, height, width, dtype=torch.bool, device=pixels.device)
        else:
            mask = F.interpolate(mask[:, None].float(), (height, width))[:, 0] > 0
        bias = None if mask.all() else torch.zeros_like(mask, dtype=features.dtype).masked_fill(~mask, -1e30).reshape(batch, 1, 1, -1)
        position = named["position"] = sine_position(mask, self.input_projection.out_features)
        memory = self.input_projection(features.flatten(2).transpose(1, 2))
        named["projected"] = memory.transpose(1, 2).unflatten(2, (height, width))
        for i, layer in enumerate(self.encoder):
            memory = named[f"encoder_layer{i}"] = layer(memory, position, bias)

        queries = self.query_position.expand(batch, -1, -1)
        x = torch.zeros_like(queries) if self.query_content is None else self.query_content.expand(batch, -1, -1)
        layers, placed = [], memory + position
        for i in range(len(self.config["decoder"])):
            x = named[f"decoder_layer{i}"] = self.decoder[str(i)](x, queries, memory, placed, bias)
            decoded = self.decoder["norm"](x)
            boxes = self.box_head(decoded)
            layers.append((self.class_head(decoded), (boxes if self.box_reference is None else boxes + self.box_reference).sigmoid()))
        named["decoder_out"] = decoded
        logits, boxes = named["logits"], named["pred_boxes"] = layers[-1]
        return Output(logits, boxes, layers, [features, memory.transpose(1, 2).unflatten(2, (height, width))], named=named)


# ---------------------------------------------------------------------------------------------- RT-DETR, RT-DETRv2, D-FINE, DEIMv2


class ResNetVd(nn.Module):
    """ResNet-D: a stem of three convolutions, and an average pool before a shortcut that has a stride."""

    def __init__(self, config, tensors):
        super().__init__()
        self.stem = nn.ModuleDict({str(i): Conv(tensors.part(f"stem.{i}"), 2 if i == 0 else 1, "relu") for i in range(3)})
        self.outputs = config["outputs"]
        channels = config["stem"]
        for s, (after, depth) in enumerate(zip(config["channels"][:self.outputs[-1] + 1], config["depths"])):
            blocks = {}
            for b in range(depth):
                stride = 2 if b == 0 and (s > 0 or config["downsample_in_first_stage"]) else 1
                # (Unpruned widths decide: they say what there was.)
                blocks[f"block{b}"] = VdBlock(config, tensors.part(f"stage{s}.block{b}"), channels != after, stride, b == 0)
                channels = after
            self.add_module(f"stage{s}", nn.ModuleDict(blocks))

    def forward(self, x):
        for conv in self.stem.values():
            x = conv(x)
        x, maps = F.max_pool2d(x, 3, 2, 1), []
        for s in range(self.outputs[-1] + 1):
            for block in getattr(self, f"stage{s}").values():
                x = block(x)
            if s in self.outputs:
                maps.append(x)
        return maps


class VdBlock(nn.Module):
    def __init__(self, config, tensors, widens, stride, first):
        super().__init__()
        self.basic = config["basic"]
        if self.basic:
            strides, self.pooled = [stride, 1], first and widens
        else:
            strides, self.pooled = [1, stride, 1], stride == 2
            if config["downsample_in_bottleneck"]:
                strides = [stride, 1, 1]
        for i, conv_stride in enumerate(strides):
            self.add_module(f"conv{i}", Conv(tensors.part(f"conv{i}"), conv_stride, "relu"))
        self.shortcut = Conv(tensors.part("shortcut"), 1 if self.pooled else stride) if tensors.has("shortcut.") else None

    def forward(self, x):
        # Of an odd map, the last windows hold only what is there.
        shortcut = F.avg_pool2d(x, 2, 2, ceil_mode=True) if self.pooled else x
        if self.shortcut is not None:
            shortcut = self.shortcut(shortcut)
        if self.basic:
            return self.conv1(self.conv0(x), shortcut)
        return self.conv2(self.conv1(self.conv0(x)), shortcut)


class HgNetV2(nn.Module):
    """PaddlePaddle's HGNetV2, as D-FINE has it."""

    def __init__(self, config, tensors):
        super().__init__()
        stem = tensors.part("stem")
        self.stem = nn.ModuleDict({
            "1": Conv(stem.part("1"), 2, "relu"),
            "2a": Conv(stem.part("2a"), 1, "relu", same=True), "2b": Conv(stem.part("2b"), 1, "relu", same=True),
            "3": Conv(stem.part("3"), 2, "relu"), "4": Conv(stem.part("4"), 1, "relu")})
        self.outputs = config["outputs"]
        for s, stage in enumerate(config["stages"][:self.outputs[-1] + 1]):
            self.add_module(f"stage{s}", HgStage(stage, tensors.part(f"stage{s}")))

    def forward(self, x):
        x = self.stem["1"](x)
        # The padding takes part in this maximum.
        pooled = F.max_pool2d(F.pad(x, [0, 1, 0, 1]), 2, 1)
        x = torch.cat([pooled, self.stem["2b"](self.stem["2a"](x))], 1)
        x, maps = self.stem["4"](self.stem["3"](x)), []
        for s in range(self.outputs[-1] + 1):
            x = getattr(self, f"stage{s}")(x)
            if s in self.outputs:
                maps.append(x)
        return maps


class HgStage(nn.Module):
    def __init__(self, config, tensors):
        super().__init__()
        self.downsample = Conv(tensors.part("downsample"), config["downsample"]) if config.get("downsample") else None
        self.blocks = config["blocks"]
        for b in range(self.blocks):
            self.add_module(f"block{b}", HgBlock(config, tensors.part(f"block{b}"), residual=b > 0))

    def forward(self, x):
        if self.downsample is not None:
            x = self.downsample(x)
        for b in range(self.blocks):
            x = getattr(self, f"block{b}")(x)
        return x


class HgBlock(nn.Module):
    """Convolutions one after another, whose outputs are all joined."""

    def __init__(self, config, tensors, residual):
        super().__init__()
        self.layers, self.residual = config["layers"], residual
        for i in range(self.layers):
            part = tensors.part(f"layer{i}")
            if config["light"]:
                layer = nn.ModuleDict({"pointwise": Conv(part.part("pointwise")), "depthwise": Conv(part.part("depthwise"), 1, "relu")})
            else:
                layer = Conv(part, 1, "relu")
            self.add_module(f"layer{i}", layer)
        self.squeeze, self.excite = Conv(tensors.part("squeeze"), 1, "relu"), Conv(tensors.part("excite"), 1, "relu")

    def forward(self, x):
        joined = [x]
        for i in range(self.layers):
            layer = getattr(self, f"layer{i}")
            joined.append(layer(joined[-1]) if isinstance(layer, Conv) else layer["depthwise"](layer["pointwise"](joined[-1])))
        y = self.excite(self.squeeze(torch.cat(joined, 1)))
        return y + x if self.residual else y


def parts(conv, tensors, name):
    """Channels of the two parts that a convolution's output is divided into: halves, unless they were pruned."""
    first, second = (tensors.size(f"{name}.{part}", None) for part in (0, 1))
    if first is None:
        first = conv.width // 2 if second is None else conv.width - second
    return [first, conv.width - first]


class Csp(nn.Module):
    """A cross-stage partial layer. RT-DETR's and D-FINE's paths begin with convolutions of their own, DEIMv2's are halves of one."""

    def __init__(self, config, tensors, activation, divided=False):
        super().__init__()
        self.conv1 = Conv(tensors.part("conv1"), 1, activation)
        self.repeats, self.parts = config["repeats"], parts(self.conv1, tensors, "conv1") if divided else None
        for i in range(self.repeats):
            self.add_module(f"repeat{i}", Conv(tensors.part(f"repeat{i}"), 1, activation))
        for name in ("conv2", "conv3"):
            self.add_module(name, Conv(tensors.part(name), 1, activation) if tensors.has(name + ".") else None)

    def forward(self, x):
        y = self.conv1(x)
        other, y = y.split(self.parts, 1) if self.parts else (self.conv2(x), y)
        for i in range(self.repeats):
            y = getattr(self, f"repeat{i}")(y)
        last = self.conv2 if self.parts else self.conv3
        return y + other if last is None else last(y + other)


class Elan(nn.Module):
    """RepNCSPELAN: a map in two halves, the second through two CSP layers, all joined."""

    def __init__(self, config, tensors, activation):
        super().__init__()
        divided = config["kind"] == "elan5"
        self.conv1 = Conv(tensors.part("conv1"), 1, activation)
        self.parts = parts(self.conv1, tensors, "conv1")
        self.csp1, self.csp2 = (Csp(config, tensors.part(name), activation, divided) for name in ("csp1", "csp2"))
        for name in ("conv2", "conv3"):
            self.add_module(name, None if divided else Conv(tensors.part(name), 1, activation))
        self.conv4 = Conv(tensors.part("conv4"), 1, activation)

    def forward(self, x):
        both = self.conv1(x)
        a = self.csp1(both.split(self.parts, 1)[1])
        a = a if self.conv2 is None else self.conv2(a)
        b = self.csp2(a)
        b = b if self.conv3 is None else self.conv3(b)
        return self.conv4(torch.cat([both, a, b], 1))


def fusion_block(config, tensors, activation):
    return (Csp if config["kind"] == "csp" else Elan)(config, tensors, activation)


def grid_position(height, width, channels, temperature):
    """RT-DETR's position embedding [height * width, channels]: sines then cosines of the row, then of the column."""
    frequencies = temperature ** -(torch.arange(channels // 4, dtype=torch.float64) / (channels // 4))
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (y, x)]
    return torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], 1).float()


class HybridEncoder(nn.Module):
    """RT-DETR's neck: transformer layers on some maps (AIFI), then a feature pyramid up and down (CCFF)."""

    def __init__(self, config, tensors, maps):
        super().__init__()
        self.config, self.maps, activation = config, maps, config["activation"]
        csp = config["block"]["kind"] == "csp"
        for i in range(maps):
            self.add_module(f"projection{i}", Conv(tensors.part(f"projection{i}")))
        for e in range(len(config["encoded_maps"])):
            layers = (EncoderLayer(tensors.part(f"encoder{e}.{i}"), layer["self_attention"]["heads"], config["ffn_activation"],
                                   config.get("normalize_before", False)) for i, layer in enumerate(config["layers"]))
            self.add_module(f"encoder{e}", nn.ModuleList(layers))
        for i in range(maps - 1):
            self.add_module(f"lateral{i}", Conv(tensors.part(f"lateral{i}"), 1, activation if csp else "none"))
            self.add_module(f"up{i}", fusion_block(config["block"], tensors.part(f"up{i}"), activation))
            part = tensors.part(f"downsample{i}")
            down = Conv(part, 2, activation) if csp else nn.ModuleDict(
                {"pointwise": Conv(part.part("pointwise")), "depthwise": Conv(part.part("depthwise"), 2)})
            self.add_module(f"downsample{i}", down)
            self.add_module(f"down{i}", fusion_block(config["block"], tensors.part(f"down{i}"), activation))

    def forward(self, maps):
        at = lambda name, i: getattr(self, f"{name}{i}")
        maps = [at("projection", i)(x) for i, x in enumerate(maps)]
        for e, map in enumerate(self.config["encoded_maps"]):
            height, width = maps[map].shape[2:]
            tokens, temperature = maps[map].flatten(2).transpose(1, 2), self.config.get("position_temperature")
            position = 0 if temperature is None else grid_position(height, width, tokens.shape[2], temperature).to(tokens.device)
            for layer in at("encoder", e):
                tokens = layer(tokens, position)
            maps[map] = tokens.transpose(1, 2).unflatten(2, (height, width))
        for i, map in enumerate(reversed(range(self.maps - 1))):
            maps[map + 1] = at("lateral", i)(maps[map + 1])
            maps[map] = at("up", i)(self.fuse(F.interpolate(maps[map + 1], scale_factor=2), maps[map]))
        for i in range(self.maps - 1):
            down = at("downsample", i)
            smaller = down(maps[i]) if isinstance(down, Conv) else down["depthwise"](down["pointwise"](maps[i]))
            maps[i + 1] = at("down", i)(self.fuse(smaller, maps[i + 1]))
        return maps

    def fuse(self, a, b):
        return torch.cat([a, b], 1) if self.config["fusion"] == "concat" else a + b


class LiteEncoder(nn.Module):
    """DEIMv2's neck for its smallest models: one map of the backbone, a second one pooled from it."""

    def __init__(self, config, tensors, maps):
        super().__init__()
        activation = config["activation"]
        self.projection0 = Conv(tensors.part("projection0"))
        self.downsample0, self.downsample1, self.fusion = (
            Conv(tensors.part(name), 1, activation) for name in ("downsample0", "downsample1", "fusion"))
        self.up0, self.down0 = (fusion_block(config["block"], tensors.part(name), activation) for name in ("up0", "down0"))

    def forward(self, maps):
        large = self.projection0(maps[-1])
        small = self.downsample0(F.avg_pool2d(large, 3, 2, 1))
        small = self.fusion(small + small.mean((2, 3), keepdim=True))
        large = self.up0(large + F.interpolate(small, scale_factor=2))
        return [large, self.down0(small + self.downsample1(F.avg_pool2d(large, 3, 2, 1)))]


class DeformableAttention(nn.Module):
    """Each query's heads look at a few points around its box, on every level (Deformable DETR, Zhu et al., 2020)."""

    def __init__(self, config, tensors):
        super().__init__()
        self.offsets, self.weights = tensors.linear("offsets"), tensors.linear("weights")
        projected = config["value_projection"]
        self.value, self.output = (tensors.linear(name) if projected else None for name in ("value", "output"))
        self.heads, self.scale = config["self_attention"]["heads"], config["offset_scale"]
        self.heads = tensors.size("heads", self.heads) if projected else self.heads
        self.points = [tensors.size(f"points.{level}", points) for level, points in enumerate(config["points"])]
        self.discrete = config["method"] == "discrete"

    def forward(self, queries, boxes, tokens, levels):
        """`queries` [batch, queries, d_model], `boxes` [batch, queries, 4], `tokens` of all `levels` (height, width) [batch, tokens, d_model]."""
        batch, count, _ = queries.shape
        value = tokens if self.value is None else self.value(tokens)
        value = value.unflatten(2, (self.heads, -1)).permute(0, 2, 3, 1).flatten(0, 1)
        offsets = self.offsets(queries).float().view(batch, count, self.heads, -1, 2)
        weights = self.weights(queries).float().view(batch, count, self.heads, -1).softmax(-1)
        per_point = torch.tensor([self.scale / points for points in self.points for _ in range(points)], device=queries.device)
        places = boxes[:, :, None, None, :2] + offsets * per_point[:, None] * boxes[:, :, None, None, 2:]
        # [batch * heads, queries, points, 2]
        places = places.transpose(1, 2).flatten(0, 1)
        sizes = [height * width for height, width in levels]
        sampled = [
            self.sample(level.unflatten(2, size), at)
            for level, size, at in zip(value.split(sizes, 2), levels, places.split(self.points, 2)) if at.shape[2] > 0]
        weights = weights.transpose(1, 2).flatten(0, 1)[:, None]
        seen = (torch.cat(sampled, 3).float() * weights).sum(3).to(queries.dtype)
        seen = seen.unflatten(0, (batch, self.heads)).permute(0, 3, 1, 2).flatten(2)
        return seen if self.output is None else self.output(seen)

    def sample(self, level, places):
        """`level` [n, channels, height, width], `places` [n, queries, points, 2] in fractions of the image → [n, channels, queries, points]."""
        if not self.discrete:
            return F.grid_sample(level.float(), 2 * places - 1, "bilinear", "zeros", align_corners=False)
        # RT-DETRv2's: the nearest place, clamped into the map.
        n, _, height, width = level.shape
        size = torch.tensor([width, height], device=places.device)
        x, y = (places * size + 0.5).long().clamp(min=0).minimum(size - 1).unbind(3)
        return level[torch.arange(n, device=level.device)[:, None, None], :, y, x].permute(0, 3, 1, 2)


class DeformableLayer(nn.Module):
    """A decoder layer: self-attention among the queries, deformable attention to the maps, a feed-forward network."""

    def __init__(self, config, tensors):
        super().__init__()
        self.self_attention = Attention(tensors.part("self_attention"), config["self_attention"]["heads"])
        self.cross_attention = DeformableAttention(config, tensors.part("cross_attention"))
        self.norm1, self.norm2, self.norm3 = (tensors.norm(name) for name in ("norm1", "norm2", "norm3"))
        self.gate = tensors.linear("gate") if config["gateway"] else None
        self.swiglu = config["ffn_kind"] == "swiglu"
        for name in ("ffn_gate", "ffn_up", "ffn2") if self.swiglu else ("ffn1", "ffn2"):
            self.add_module(name, tensors.linear(name))
        self.activation = ACTIVATIONS[config["activation"]]

    def forward(self, x, position, boxes, tokens, levels):
        placed = x + position
        x = self.norm1(x + self.self_attention(placed, placed, x))
        seen = self.cross_attention(x + position, boxes, tokens, levels)
        if self.gate is None:
            x = self.norm2(x + seen)
        else:
            kept, taken = self.gate(torch.cat([x, seen], 2)).sigmoid().chunk(2, 2)
            x = self.norm2(kept * x + taken * seen)
        hidden = F.silu(self.ffn_gate(x)) * self.ffn_up(x) if self.swiglu else self.activation(self.ffn1(x))
        return self.norm3(x + self.ffn2(hidden))


class Selection(nn.Module):
    """What chooses the tokens that become queries."""

    def __init__(self, config, tensors):
        super().__init__()
        self.output, self.norm = (tensors.linear("output"), tensors.norm("norm")) if config["output"] else (None, None)
        self.score, self.box = tensors.linear("score"), Mlp(tensors.part("box"), config["activation"])
        self.content = tensors.parameter("content") if config.get("learnt_content") else None


def anchors(levels, device):
    """A box around each place of each level, as logits [tokens, 4], and which of them lie well within the image [tokens, 1]."""
    boxes = []
    for level, (height, width) in enumerate(levels):
        y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
        side = torch.full_like(x, ANCHOR * 2 ** level)
        boxes.append(torch.stack([x, y, side, side], -1).flatten(0, 1))
    boxes = torch.cat(boxes)
    valid = ((boxes > ANCHOR_MARGIN) & (boxes < 1 - ANCHOR_MARGIN)).all(-1, keepdim=True)
    logits = torch.where(valid, (boxes / (1 - boxes)).log(), torch.finfo(torch.float32).max)
    return logits.to(device), valid.to(device)


def bin_distances(bins, reg_scale, up):
    """The distance that each of D-FINE's `bins + 1` bins stands for."""
    reach = abs(up * reg_scale)
    step = (reach + 1) ** (2 / (bins - 2))
    inner = [step ** i - 1 for i in range(1, bins // 2)]
    return torch.tensor([-2 * reach, *(-distance for distance in reversed(inner)), 0, *inner, 2 * reach], dtype=torch.float32)


class RtDetr(nn.Module):
    """RT-DETR and its descendants: backbone → neck → the best tokens become queries → decoder layers that refine their boxes."""

    def __init__(self, config, tensors):
        super().__init__()
        self.config, decoder, head = config, config["decoder"], config["decoder"]["boxes"]
        backbone = {"resnet-vd": ResNetVd, "hgnetv2": HgNetV2}[config["backbone"]["kind"]]
        self.backbone = backbone(config["backbone"], tensors.part("backbone"))
        neck = {"hybrid": HybridEncoder, "lite": LiteEncoder}[config["neck"]["kind"]]
        self.neck = neck(config["neck"], tensors.part("neck"), len(config["backbone"]["outputs"]))
        # Levels beyond the neck's maps are made by convolutions of stride 2, one of another.
        self.levels, extra = len(decoder["points"]), config.get("extra_levels", 0)
        for i in range(self.levels if config["decoder_projection"] else 0):
            self.add_module(f"projection{i}", Conv(tensors.part(f"projection{i}"), 2 if i >= self.levels - extra else 1))
        self.selection = Selection(config["selection"], tensors.part("selection"))
        self.query_position = Mlp(tensors.part("query_position"), decoder["position"]["activation"])
        layers = range(decoder["layers"])
        self.decoder = nn.ModuleList(DeformableLayer(decoder, tensors.part(f"decoder.{i}")) for i in layers)
        self.class_head = nn.ModuleList(tensors.linear(f"class_head.{i}") for i in layers)
        self.distributions = head["kind"] == "distributions"
        activation = head["activation"] if self.distributions else "relu"
        self.shared = head.get("shared", False)
        if self.shared:
            self.box_head = Mlp(tensors.part("box_head"), activation)
        else:
            self.box_head = nn.ModuleList(Mlp(tensors.part(f"box_head.{i}"), activation) for i in layers)
        if self.distributions:
            self.initial_box = Mlp(tensors.part("initial_box"), activation)
            self.quality_head = nn.ModuleList(Mlp(tensors.part(f"quality_head.{i}"), activation) for i in layers)
            self.register_buffer("distances", bin_distances(head["bins"], head["reg_scale"], head["up"]), persistent=False)

    def forward(self, pixels, mask=None, chosen=None):
        """`pixels` [batch, 3, height, width]. `chosen` [batch, queries]: the tokens to make queries of, in place of the best ones."""
        if mask is not None and not mask.all():
            raise ValueError("this architecture takes no masks: its images are stretched to one size")
        named, features = {}, self.backbone(pixels)
        maps = self.neck(features)
        named |= {f"backbone_{i}": map for i, map in enumerate(features)} | {f"encoder_{i}": map for i, map in enumerate(maps)}
        projected = maps
        if self.config["decoder_projection"]:
            projected = [getattr(self, f"projection{i}")(map) for i, map in enumerate(maps)]
            last = maps[-1]
            for i in range(len(maps), self.levels):
                last = getattr(self, f"projection{i}")(last)
                projected.append(last)
        levels = [map.shape[2:] for map in projected]
        tokens = torch.cat([map.flatten(2).transpose(1, 2) for map in projected], 1)
        scores, chosen, content, logits, first = self.select(tokens, levels, chosen)
        named |= {"enc_topk_ind": chosen.float(), "init_reference_points": logits}

        layers, boxes, position, state = [first], logits.detach().sigmoid(), None, None
        logits, content = logits.detach(), content.detach() if self.selection.content is None else content
        for i, layer in enumerate(self.decoder):
            if position is None or not self.config["decoder"]["position"]["once"]:
                position, bound = self.query_position(boxes), self.config["decoder"]["position"].get("clamp")
                position = position if bound is None else position.clamp(-bound, bound)
            content = named[f"decoder_layer{i}"] = layer(content, position, boxes, tokens, levels)
            scored = self.class_head[i](content)
            head = self.box_head if self.shared else self.box_head[i]
            if self.distributions:
                boxes, scored, state = self.distribute(head, i, content, scored, logits, state)
                if i == 0:
                    layers.append((scored, state["first"]))
            else:
                logits = head(content) + logits.clamp(-LOGIT_BOUND, LOGIT_BOUND)
                boxes = logits.sigmoid()
            layers.append((scored, boxes))
            # As in all of the family, no gradient goes from a layer's boxes to the layers before it.
            boxes, logits = boxes.detach(), logits.detach()
        named["logits"], named["pred_boxes"] = layers[-1]
        return Output(*layers[-1], layers, features + maps, scores, chosen, named)

    def select(self, tokens, levels, chosen):
        """Class logits of all tokens; the chosen ones, their contents, and their boxes as logits; and these as a layer's (logits, boxes)."""
        anchor, valid = anchors(levels, tokens.device)
        tokens = tokens * valid
        if self.selection.output is not None:
            tokens = self.selection.norm(self.selection.output(tokens))
        scores = self.selection.score(tokens)
        if chosen is None:
            # Of equal tokens the first.
            best = scores.float().max(-1).values.sort(dim=1, descending=True, stable=True).indices
            chosen = best[:, :self.config["queries"]]
        at = lambda x: x.gather(1, chosen[..., None].expand(-1, -1, x.shape[2]))
        selected = at(tokens)
        logits = self.selection.box(selected).float() + at(anchor.expand(len(tokens), -1, -1))
        content = selected if self.selection.content is None else self.selection.content.expand(len(tokens), -1, -1)[:, :chosen.shape[1]]
        return scores, chosen, content, logits, (at(scores), logits.sigmoid())

    def distribute(self, head, i, content, scored, logits, state):
        """D-FINE's boxes: each edge's distance as a distribution over bins, which layer after layer corrects; and class scores that are corrected
        by how sharp it is."""
        if state is None:
            initial = (self.initial_box(content) + logits.clamp(-LOGIT_BOUND, LOGIT_BOUND)).sigmoid()
            state = {"first": initial, "initial": initial.detach(), "corners": 0, "content": 0}
        corners = head(content + state["content"]).float() + state["corners"]
        bins = corners.unflatten(2, (4, -1)).softmax(-1)
        left, up, right, down = (bins @ self.distances / abs(self.config["decoder"]["boxes"]["reg_scale"])).unbind(-1)
        # From distances of the edges, in sizes of the box, to centre and size.
        changes = torch.stack([(right - left) / 2, (down - up) / 2, left + right, up + down], -1)
        initial = state["initial"]
        boxes = initial + changes * initial[..., 2:].repeat(1, 1, 2)
        top = bins.topk(self.config["decoder"]["boxes"]["top"]).values.flatten(2)
        return boxes, scored + self.quality_head[i](top), state | {"corners": corners, "content": content.detach()}


# ------------------------------------------------------------------------------------------------------------------------- images, boxes


def target_size(resize, width, height):
    """Width and height that an image is resized to."""
    rule = resize["rule"]
    if rule == "stretch":
        return resize["width"], resize["height"]
    if rule == "original":
        return width, height
    if rule == "within":
        scale = min(resize["height"] / height, resize["width"] / width)
        return int(width * scale), int(height * scale)
    short, long = min(width, height), max(width, height)
    exact = float(resize["short"])
    if long / short * exact > resize["long"]:
        exact = resize["long"] * short / long
    size = round(exact)
    if short == size:
        return width, height
    return (size, int(exact * height / width)) if width < height else (int(exact * width / height), size)


def open_image(path):
    """Upright and on white, as detrim has it."""
    image = ImageOps.exif_transpose(Image.open(path))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def preprocess(image, config):
    """An RGB image as pixel_values [3, height, width]: resized, from 0 to 1, then (x - mean) / std."""
    pixels = config["pixels"]
    image = image.resize(target_size(pixels["resize"], *image.size), Image.BILINEAR)
    x = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    return (x - torch.tensor(pixels["mean"])[:, None, None]) / torch.tensor(pixels["std"])[:, None, None]


def corners(boxes):
    """(centre x, centre y, width, height) → (left, top, right, bottom)"""
    centre, size = boxes.split(2, -1)
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def scores(logits, config):
    """[…, objects' classes], from 0 to 1; with softmax the last class is no-object and is left out."""
    return logits.softmax(-1)[..., :-1] if config.get("class_activation") == "softmax" else logits.sigmoid()


@torch.no_grad()
def detect(model, image, threshold):
    """What is found in an RGB image: (label, score, [left, top, right, bottom] in pixels), the best first."""
    output = model(preprocess(image, model.config)[None].to(next(model.parameters()).device))
    best, classes = scores(output.logits[0], model.config).max(-1)
    boxes = corners(output.boxes[0]) * torch.tensor([*image.size] * 2, device=best.device)
    found = [(model.config["labels"][classes[i]]["name"], best[i].item(), boxes[i].tolist()) for i in best.argsort(descending=True)]
    return [item for item in found if item[1] >= threshold]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python detrim_torch.py MODEL.safetensors IMAGE")
    network = load(sys.argv[1])
    for label, score, box in detect(network, open_image(sys.argv[2]), network.header["card"].get("threshold") or 0.5):
        print(f"{label:20} {score:.3f}  " + "  ".join(f"{side:7.1f}" for side in box))
