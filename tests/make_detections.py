"""Makes tests/fixtures/detect/expected.json: the ten best queries of each sample photo, by PyTorch in float32 on the embedded model's weights.

    pip install torch safetensors pillow numpy
    python tests/make_detections.py

Written from the papers and from the names in the file, apart from the Rust network: EfficientNet-Lite0 as in timm, DETR's transformer (post-norm).
"""
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open

ROOT = Path(__file__).parent.parent
entry = json.loads((ROOT / "models/index.json").read_text())[0]
with safe_open(ROOT / "models" / entry["file"], "pt") as file:
    config = json.loads(file.metadata()["detrim"])["config"]
    stored = {name: file.get_tensor(name) for name in file.keys()}

# int8 times the scale of its output channel, which is the last axis of a depthwise filter and the first of all others.
weights = {}
for name, tensor in stored.items():
    if name.endswith(".scale"):
        continue
    tensor = tensor.float()
    if f"{name}.scale" in stored:
        scale = stored[f"{name}.scale"].float()
        tensor = tensor * (scale if "depthwise" in name else scale.view(-1, *[1] * (tensor.ndim - 1)))
    weights[name] = tensor


def linear(x, name):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm(x, name):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-5)


def conv(x, name, stride=1):
    """[batch, channels, height, width]; padded as TensorFlow's SAME."""
    weight, depthwise = weights[f"{name}.weight"], name.endswith("depthwise")
    weight = weight.permute(2, 0, 1)[:, None] if depthwise else weight.permute(0, 3, 1, 2)
    kernel, padding = weight.shape[-1], []
    for size in (x.shape[3], x.shape[2]):
        whole = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
        padding += [whole // 2, whole - whole // 2]
    return F.conv2d(F.pad(x, padding), weight, weights[f"{name}.bias"], stride, groups=x.shape[1] if depthwise else 1)


def backbone(x):
    x = F.relu6(conv(x, "backbone.stem", 2))
    for s, stage in enumerate(config["backbone"]["stages"]):
        for b, block in enumerate(stage):
            name = f"backbone.stage{s}.block{b}"
            y = F.relu6(conv(x, f"{name}.expand")) if block["expansion"] else x
            y = F.relu6(conv(y, f"{name}.depthwise", block["stride"]))
            y = conv(y, f"{name}.project")
            x = x + y if block["residual"] else y
    return x


def attend(query, key, value, name, heads):
    """[tokens, d_model] each."""
    q, k, v = (linear(x, f"{name}.{part}").unflatten(-1, (heads, -1)).transpose(0, 1) for x, part in ((query, "query"), (key, "key"), (value, "value")))
    mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v
    return linear(mixed.transpose(0, 1).flatten(1), f"{name}.output")


def feed_forward(x, name, last):
    return norm(x + linear(F.relu(linear(x, f"{name}.ffn1")), f"{name}.ffn2"), f"{name}.{last}")


def sine_position(height, width, d_model):
    half = d_model // 2
    divisors = 10_000 ** (2 * torch.div(torch.arange(half), 2, rounding_mode="floor") / half)

    def embed(count):
        angles = (torch.arange(1, count + 1) / (count + 1e-6) * 2 * math.pi)[:, None] / divisors
        return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), -1).flatten(1)

    down, along = embed(height)[:, None].expand(-1, width, -1), embed(width)[None].expand(height, -1, -1)
    return torch.cat((down, along), -1).flatten(0, 1)


def detr(pixels):
    features = backbone(pixels)
    height, width = features.shape[2:]
    memory = linear(features[0].flatten(1).T, "input_projection")
    position = sine_position(height, width, config["d_model"])
    for i, layer in enumerate(config["encoder"]):
        name, placed = f"encoder.{i}", memory + position
        memory = norm(memory + attend(placed, placed, memory, f"{name}.self_attention", layer["self_attention"]["heads"]), f"{name}.norm1")
        memory = feed_forward(memory, name, "norm2")
    x, asked = weights["query_content"], weights["query_position"]
    for i, layer in enumerate(config["decoder"]):
        name = f"decoder.{i}"
        if layer.get("self_attention"):
            placed = x + asked
            x = norm(x + attend(placed, placed, x, f"{name}.self_attention", layer["self_attention"]["heads"]), f"{name}.norm1")
        x = norm(x + attend(x + asked, memory + position, memory, f"{name}.cross_attention", layer["cross_attention"]["heads"]), f"{name}.norm2")
        x = feed_forward(x, name, "norm3")
    x = norm(x, "decoder.norm")
    box = linear(F.relu(linear(F.relu(linear(x, "box_head.0")), "box_head.1")), "box_head.2")
    return torch.sigmoid(linear(x, "class_head")), torch.sigmoid(box + weights["box_reference"])


expected = {}
for sample in json.loads((ROOT / "www/samples/index.json").read_text()):
    picture = Image.open(ROOT / "www/samples" / sample["file"]).convert("RGB")
    resized = np.asarray(picture.resize((384, 384), Image.Resampling.BILINEAR), np.float32)
    pixels = torch.from_numpy((resized / 255 - 0.5) / 0.5).permute(2, 0, 1)[None]
    with torch.no_grad():
        scores, boxes = detr(pixels)
    best, labels = scores.max(-1)
    detections = []
    for query in best.argsort(descending=True)[:10].tolist():
        cx, cy, w, h = boxes[query].tolist()
        sides = [(cx - w / 2) * picture.width, (cy - h / 2) * picture.height, (cx + w / 2) * picture.width, (cy + h / 2) * picture.height]
        detections.append({"query": query, "label": entry["labels"][labels[query]], "score": round(best[query].item(), 5), "box": [round(x, 3) for x in sides]})
    expected[sample["file"]] = {"width": picture.width, "height": picture.height, "detections": detections}
lines = json.dumps(expected).replace('[{"query"', '[\n  {"query"').replace(', {"query"', ',\n  {"query"').replace('}]}, "', '}]},\n "')
(ROOT / "tests/fixtures/detect/expected.json").write_text(lines + "\n")
for name, found in expected.items():
    print(name, [(d["label"], d["score"]) for d in found["detections"][:3]])
