"""The networks behind the parity fixtures: PyTorch, timm and transformers modules in tiny widths. See make_fixtures.py.

Each has `run(model, pixel_values, pixel_mask) -> {stage: tensor}` under the stage names that `detrim forward` writes.
"""
from functools import partial

import torch
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNetFeatures
from timm.models.resnet import make_blocks
from torch import nn
from torch.nn import functional as F
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.models.detr.modeling_detr import DetrSinePositionEmbedding, replace_batch_norm


class ResNetBody(nn.Module):
    """timm's residual blocks behind a 7x7 stem: torchvision's ResNet, its names and DC5 (output stride 16) in any width."""

    def __init__(self, block, planes, counts, stem, output_stride=32):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, stem, 7, 2, 3, bias=False), nn.BatchNorm2d(stem)
        stages, features = make_blocks((block,) * 4, planes, counts, stem, output_stride=output_stride, norm_layer=nn.BatchNorm2d)
        for name, stage in stages:
            self.add_module(name, stage)
        self.channels = features[-1]["num_chs"]
        replace_batch_norm(self)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        return [self.layer4(self.layer3(self.layer2(self.layer1(x))))]


def lite0_body(scale):
    """timm's `tf_efficientnet_lite0` with every channel count scaled and rounded to an even number."""
    arch = ["ds_r1_k3_s1_e1_c16", "ir_r2_k3_s2_e6_c24", "ir_r2_k5_s2_e6_c40", "ir_r3_k3_s2_e6_c80",
            "ir_r3_k5_s1_e6_c112", "ir_r4_k5_s2_e6_c192", "ir_r1_k3_s1_e6_c320"]
    body = EfficientNetFeatures(
        decode_arch_def([[a] for a in arch]), out_indices=(4,), stem_size=10, fix_stem=True, pad_type="same", act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=1e-3), round_chs_fn=lambda c, *_, **__: max(4, int(c * scale / 2) * 2))
    body.channels = body.feature_info.channels()[-1]
    return body


def hf_detr(body=None, backbone="resnet18", native=None, **kwargs):
    """transformers' DETR; `body` replaces the timm `backbone`, `native` is a ResNetConfig."""
    common = dict(use_pretrained_backbone=False, num_labels=11, dropout=0.0, **kwargs)
    if native:
        config = DetrConfig(use_timm_backbone=False, backbone=None, backbone_config=ResNetConfig(**native), **common)
    else:
        config = DetrConfig(use_timm_backbone=True, backbone=backbone, **common)
    config._attn_implementation = "eager"
    model = DetrForObjectDetection(config)
    if body:
        model.model.backbone.model = body
        model.model.input_projection = nn.Conv2d(body.channels, config.d_model, 1)
    return model


def add_content_and_reference(model):
    """What detrim's config knows beside DETR: learnt decoder input, and box logits added before the sigmoid."""
    core, config = model.model, model.config
    core.query_content = nn.Parameter(torch.zeros(config.num_queries, config.d_model))
    core.box_reference = nn.Parameter(torch.zeros(config.num_queries, 4))

    def start(module, args, kwargs):
        return args, {**kwargs, "inputs_embeds": core.query_content.expand_as(kwargs["inputs_embeds"])}
    core.decoder.register_forward_pre_hook(start, with_kwargs=True)
    model.bbox_predictor.register_forward_hook(lambda module, args, out: out + core.box_reference)


def run_hf(model, pixels, mask):
    seen, core, hooks = {}, model.model, []

    def see(module, name, pick=lambda o: o):
        hooks.append(module.register_forward_hook(lambda m, a, o: seen.__setitem__(name, pick(o))))
    see(core.backbone, "backbone", lambda o: o[-1][0])
    see(core.input_projection, "projected")
    hooks.append(core.encoder.layers[0].register_forward_pre_hook(
        lambda m, a, k: seen.__setitem__("position", k["spatial_position_embeddings"]), with_kwargs=True))
    for part in ("encoder", "decoder"):
        for i, layer in enumerate(getattr(core, part).layers):
            see(layer, f"{part}_layer{i}", lambda o: o[0] if isinstance(o, tuple) else o)
    see(core.decoder, "decoder_out", lambda o: o.last_hidden_state)
    out = model(pixels, pixel_mask=mask)
    for hook in hooks:
        hook.remove()
    return {**seen, "logits": out.logits, "pred_boxes": out.pred_boxes}


def position_and_padding(features, mask, d_model):
    """DETR's sine embedding [b, tokens, d] and the padded tokens [b, tokens] of a mask [b, h, w] of pixels."""
    small = F.interpolate(mask[None].to(features.dtype), size=features.shape[-2:])[0].bool()
    embed = DetrSinePositionEmbedding(d_model // 2, normalize=True)
    position = embed(features.shape, features.device, features.dtype, mask=small)
    return position.flatten(2).transpose(1, 2), ~small.flatten(1)


class OriginalEncoderLayer(nn.TransformerEncoderLayer):
    """torch's layer has the original repository's tensor names; DETR adds positions to queries and keys only."""

    def forward(self, x, position, padding):
        q = x + position
        x = self.norm1(x + self.self_attn(q, q, x, key_padding_mask=padding, need_weights=False)[0])
        return self.norm2(x + self.linear2(self.activation(self.linear1(x))))


class OriginalDecoderLayer(nn.TransformerDecoderLayer):
    def forward(self, x, query_position, memory, position, padding):
        q = x + query_position
        x = self.norm1(x + self.self_attn(q, q, x, need_weights=False)[0])
        mixed = self.multihead_attn(x + query_position, memory + position, memory, key_padding_mask=padding, need_weights=False)[0]
        x = self.norm2(x + mixed)
        return self.norm3(x + self.linear2(self.activation(self.linear1(x))))


class OriginalDetr(nn.Module):
    """DETR under the names of the original repository's checkpoints."""

    def __init__(self, body, d_model, heads, ffn, encoder, decoder, queries, classes):
        super().__init__()
        joined = nn.Module()
        joined.body = body
        self.backbone = nn.ModuleList([joined])
        self.input_proj = nn.Conv2d(body.channels, d_model, 1)
        layer = dict(d_model=d_model, nhead=heads, dim_feedforward=ffn, dropout=0.0, batch_first=True)
        parts = {"encoder": [OriginalEncoderLayer(**layer) for _ in range(encoder)],
                 "decoder": [OriginalDecoderLayer(**layer) for _ in range(decoder)]}
        self.transformer = nn.Module()
        for name, layers in parts.items():
            self.transformer.add_module(name, nn.Module())
            getattr(self.transformer, name).layers = nn.ModuleList(layers)
        self.transformer.decoder.norm = nn.LayerNorm(d_model)
        self.class_embed = nn.Linear(d_model, classes)
        self.bbox_embed = nn.Module()
        self.bbox_embed.layers = nn.ModuleList(nn.Linear(d_model, n) for n in (d_model, d_model, 4))
        self.query_embed = nn.Embedding(queries, d_model)

    def forward(self, pixels, mask):
        seen = {"backbone": self.backbone[0].body(pixels)[0]}
        seen["projected"] = self.input_proj(seen["backbone"])
        width = self.class_embed.in_features
        position, padding = position_and_padding(seen["backbone"], mask, width)
        seen["position"] = position
        x = seen["projected"].flatten(2).transpose(1, 2)
        for i, layer in enumerate(self.transformer.encoder.layers):
            seen[f"encoder_layer{i}"] = x = layer(x, position, padding)
        memory, query_position = x, self.query_embed.weight.expand(len(x), -1, -1)
        x = torch.zeros_like(query_position)
        for i, layer in enumerate(self.transformer.decoder.layers):
            seen[f"decoder_layer{i}"] = x = layer(x, query_position, memory, position, padding)
        seen["decoder_out"] = x = self.transformer.decoder.norm(x)
        seen["logits"] = self.class_embed(x)
        for layer in self.bbox_embed.layers[:2]:
            x = layer(x).relu()
        return {**seen, "pred_boxes": self.bbox_embed.layers[2](x).sigmoid()}


class Attention(nn.Module):
    """Multi-head attention whose heads have a width of their own."""

    def __init__(self, d_model, heads, head_width):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(d_model, heads * head_width) for _ in range(3))
        self.output = nn.Linear(heads * head_width, d_model)

    def forward(self, q, k, v, seen=None):
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (self.query(q), self.key(k), self.value(v)))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=None if seen is None else seen[:, None, None])
        return self.output(x.transpose(1, 2).flatten(2))


class TrimmedBlock(nn.Module):
    """A residual block of two or three convolutions with batch norm already folded in."""

    def __init__(self, width, channels, inner, stride, dilation, projection):
        super().__init__()
        sizes = [width, *inner, channels]
        for i, (a, b) in enumerate(zip(sizes, sizes[1:])):
            spatial = len(inner) == 1 or i == 1
            step = stride if i == len(inner) - 1 else 1
            conv = nn.Conv2d(a, b, 3, step, dilation, dilation) if spatial else nn.Conv2d(a, b, 1)
            self.add_module(f"conv{i + 1}", conv)
        if projection:
            self.projection = nn.Conv2d(width, channels, 1, stride)

    def forward(self, x):
        y = self.conv2(self.conv1(x).relu())
        y = self.conv3(y.relu()) if hasattr(self, "conv3") else y
        return (y + (self.projection(x) if hasattr(self, "projection") else x)).relu()


class TrimmedDetr(nn.Module):
    """What trimming leaves: every layer with heads and widths of its own. `config` and tensor names are detrim's."""

    def __init__(self, config):
        super().__init__()
        d, net = config["d_model"], config["backbone"]
        self.backbone = nn.Module()
        self.backbone.stem = nn.Conv2d(3, net["stem"], 7, 2, 3)
        width = net["stem"]
        for s, stage in enumerate(net["stages"]):
            blocks = nn.Module()
            for b, block in enumerate(stage["blocks"]):
                blocks.add_module(f"block{b}", TrimmedBlock(width, stage["channels"], **block))
                width = stage["channels"]
            self.backbone.add_module(f"stage{s + 1}", blocks)
        self.input_projection = nn.Conv2d(width, d, 1)

        def layer(spec, norms):
            part = nn.Module()
            for name in ("self_attention", "cross_attention"):
                if name in spec:
                    part.add_module(name, Attention(d, **spec[name]))
            part.ffn1, part.ffn2 = nn.Linear(d, spec["ffn"]), nn.Linear(spec["ffn"], d)
            for i in range(norms):
                part.add_module(f"norm{i + 1}", nn.LayerNorm(d))
            return part
        self.encoder = nn.ModuleList(layer(spec, 2) for spec in config["encoder"])
        self.decoder = nn.ModuleList(layer(spec, 3) for spec in config["decoder"])
        self.decoder.norm = nn.LayerNorm(d)
        self.query_position = nn.Parameter(torch.zeros(config["queries"], d))
        self.class_head = nn.Linear(d, config["classes"])
        self.box_head = nn.ModuleList([nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, 4)])

    def features(self, pixels):
        x = F.max_pool2d(self.backbone.stem(pixels).relu(), 3, 2, 1)
        for name, stage in self.backbone.named_children():
            if name != "stem":
                for block in stage.children():
                    x = block(x)
        return x

    def forward(self, pixels, mask):
        seen = {"backbone": self.features(pixels)}
        seen["projected"] = self.input_projection(seen["backbone"])
        position, padding = position_and_padding(seen["backbone"], mask, self.class_head.in_features)
        seen["position"], valid = position, ~padding
        x = seen["projected"].flatten(2).transpose(1, 2)
        for i, layer in enumerate(self.encoder):
            x = layer.norm1(x + layer.self_attention(x + position, x + position, x, valid))
            seen[f"encoder_layer{i}"] = x = layer.norm2(x + layer.ffn2(layer.ffn1(x).relu()))
        memory, queries = x, self.query_position.expand(len(x), -1, -1)
        x = torch.zeros_like(queries)
        for i, layer in enumerate(self.decoder.children()):
            if isinstance(layer, nn.LayerNorm):
                continue
            x = layer.norm1(x + layer.self_attention(x + queries, x + queries, x))
            x = layer.norm2(x + layer.cross_attention(x + queries, memory + position, memory, valid))
            seen[f"decoder_layer{i}"] = x = layer.norm3(x + layer.ffn2(layer.ffn1(x).relu()))
        seen["decoder_out"] = x = self.decoder.norm(x)
        seen["logits"] = self.class_head(x)
        for layer in list(self.box_head)[:2]:
            x = layer(x).relu()
        return {**seen, "pred_boxes": self.box_head[2](x).sigmoid()}
