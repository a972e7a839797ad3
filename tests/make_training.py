"""Makes fixtures/training/*.safetensors and .json: small networks as they are trained (src/train/network.rs), a batch of examples,
and the losses and every parameter's gradient as PyTorch computes them in float64.

    pip install torch scipy numpy safetensors
    python make_training.py
"""
import json, math, pathlib
import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from reference_losses import WEIGHTS, match, overlaps, sigmoid_loss, softmax_loss

D, HEADS, WIDTH, FFN, ENCODER, DECODER, QUERIES, OBJECTS, ROWS, COLUMNS, CHANNELS, BATCH = 8, 2, 6, 10, 1, 2, 5, 4, 3, 4, 6, 3
TOKENS = 2  # of the encoder's tokens answer for each target
logit = lambda x: math.log(x / (1 - x))


class Net:
    """DETR from its weights by name; `w` is filled as names are asked for."""

    def __init__(self, rng, classes, anchored, content, gelu, groups):
        self.rng, self.w, self.classes, self.anchored, self.content, self.groups = rng, {}, classes, anchored, content, groups
        self.act = F.gelu if gelu else F.relu

    def get(self, name, *shape, mean=0., spread=.5):
        if name not in self.w:
            x = torch.tensor(self.rng.normal(mean, spread, shape).astype(np.float32)).double()
            self.w[name] = x.requires_grad_()
        return self.w[name]

    def linear(self, x, name, out):
        n = x.shape[-1]
        return x @ self.get(name + ".weight", out, n, spread=n ** -.5).T + self.get(name + ".bias", out, spread=.1)

    def norm(self, x, name):
        return F.layer_norm(x, (D,), self.get(name + ".weight", D, mean=1., spread=.2), self.get(name + ".bias", D, spread=.2))

    def attention(self, name, q, k, v, bias=None):
        split = lambda x, part: self.linear(x, f"{name}.{part}", HEADS * WIDTH).unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)
        q, k, v = split(q, "query"), split(k, "key"), split(v, "value")
        scores = q @ k.transpose(-1, -2) / WIDTH ** .5
        if bias is not None:
            scores = scores + bias[:, None]
        return self.linear((scores.softmax(-1) @ v).transpose(1, 2).flatten(2), f"{name}.output", D)

    def ffn(self, x, name):
        return x + self.linear(self.act(self.linear(x, name + ".ffn1", FFN)), name + ".ffn2", D)

    def box_head(self, x, name):
        return self.linear(F.relu(self.linear(F.relu(self.linear(x, name + ".0", D)), name + ".1", D)), name + ".2", 4)

    def learnt(self, name, width):
        """Of the network's own queries, then of each group's."""
        return torch.cat([self.get(n + name, QUERIES, width) for n in ["", *(f"training.groups.{k}." for k in range(self.groups))]])

    def forward(self, features, asked):
        memory = self.linear(features.flatten(1, 2), "input_projection", D)
        place = sine_places()
        for i in range(ENCODER):
            n = f"encoder.{i}"
            memory = self.norm(memory + self.attention(f"{n}.self_attention", memory + place, memory + place, memory), f"{n}.norm1")
            memory = self.norm(self.ffn(memory, n), f"{n}.norm2")
        dense = None
        if self.anchored:
            x = self.norm(memory, "training.dense.norm")
            centres = torch.tensor([[logit((x + .5) / COLUMNS), logit((y + .5) / ROWS), logit(.2), logit(.2)] for y in range(ROWS) for x in range(COLUMNS)])
            dense = self.linear(x, "training.dense.class", self.classes), (self.box_head(x, "training.dense.box") + centres).sigmoid()
        learnt = (1 + self.groups) * QUERIES
        content = self.learnt("query_content", D) if self.content else torch.zeros(learnt, D).double()
        content = content.expand(BATCH, -1, -1)
        reference = None
        count = max(map(len, asked))
        bias = torch.full((BATCH, count + learnt, count + learnt), -math.inf)
        for first in range(count, count + learnt, QUERIES):
            bias[:, first:first + QUERIES, first:first + QUERIES] = 0.
        bias[:, :count, count:count + QUERIES] = 0.
        if self.anchored:
            reference = self.learnt("box_reference", 4).expand(BATCH, -1, -1)
            boxes, labels = torch.full((BATCH, count, 4), .5), torch.zeros(BATCH, count, dtype=torch.long)
            for n, queries in enumerate(asked):
                groups = [q["group"] for q in queries] + [None] * (count - len(queries))
                for i, q in enumerate(queries):
                    boxes[n, i], labels[n, i] = torch.tensor(q["bounds"]), q["class"]
                bias[n, :count, :count] = torch.tensor([[0. if a == b else -math.inf for b in groups] for a in groups])
            reference = torch.cat([(boxes / (1 - boxes)).log(), reference], 1)
            content = torch.cat([self.get("training.label", self.classes, D)[labels], content], 1)
            speeds = math.tau / 10_000 ** (torch.arange(D // 4) / (D // 4))
            angles = reference.sigmoid()[..., None] * speeds
            waves = torch.cat([angles.sin(), angles.cos()], -1).flatten(2)
            position = self.linear(F.relu(self.linear(waves, "training.position.0", D)), "training.position.1", D)
        else:
            position = self.learnt("query_position", D)
            if self.content:
                reference = self.learnt("box_reference", 4)
        layers, x = [], content
        for i in range(DECODER):
            n = f"decoder.{i}"
            x = self.norm(x + self.attention(f"{n}.self_attention", x + position, x + position, x, bias), f"{n}.norm1")
            x = self.norm(x + self.attention(f"{n}.cross_attention", x + position, memory + place, memory), f"{n}.norm2")
            x = self.norm(self.ffn(x, n), f"{n}.norm3")
            y = self.norm(x, "decoder.norm")
            boxes = self.box_head(y, "box_head")
            layers.append((self.linear(y, "class_head", self.classes), (boxes if reference is None else boxes + reference).sigmoid()))
        return layers, dense


def sine_places():
    half = D // 2
    divisors = 10_000 ** (2 * (torch.arange(half) // 2) / half)
    wave = lambda at: torch.stack([(at / divisors)[0::2].sin(), (at / divisors)[1::2].cos()], -1).flatten()
    at = lambda i, n: (i + 1) / (n + 1e-6) * math.tau
    return torch.stack([torch.cat([wave(at(y, ROWS)), wave(at(x, COLUMNS))]) for y in range(ROWS) for x in range(COLUMNS)])


def loss(kind, said, examples, pairs):
    """`said` and `pairs`: logits, boxes and who answers for what, of each picture."""
    parts, class_norm, count = [], 0., 0.
    for (logits, boxes), e, p in zip(said, examples, pairs):
        class_loss, norm = (softmax_loss if kind == "softmax" else sigmoid_loss)(logits, boxes, e["targets"], e["known"], p)
        class_norm, count = class_norm + norm, count + sum(e["targets"][t]["weight"] for _, t in p)
        l1 = giou = boxes.sum() * 0
        for q, t in p:
            aim, weight = torch.tensor([e["targets"][t]["bounds"]]), e["targets"][t]["weight"]
            l1 = l1 + weight * (boxes[q:q + 1] - aim).abs().sum()
            giou = giou + weight * (1 - overlaps(boxes[q:q + 1], aim)[1].sum())
        parts.append(torch.stack([class_loss + boxes.sum() * 0, l1, giou]))
    count = max(1., count)
    return sum(parts) / torch.tensor([class_norm if kind == "softmax" else count, count, count])


def weighted(parts):
    return WEIGHTS["class_"] * parts[0] + WEIGHTS["l1"] * parts[1] + WEIGHTS["giou"] * parts[2]


def make(name, kind, anchored, content, gelu, seed, groups=0):
    r = np.random.default_rng(seed)
    single = lambda x: [float(v) for v in np.array(x, dtype=np.float32)]
    box = lambda: single([*r.uniform(.25, .75, 2), *r.uniform(.1, .45, 2)])
    target = lambda c, w=1.: {"class": c, "bounds": box(), "weight": float(np.float32(w))}
    examples = [dict(targets=[target(0), target(2, .6), target(1, .2)], known=[True, True, True, False]),
                dict(targets=[target(3), target(1, 0.)], known=[True] * OBJECTS), dict(targets=[], known=[True] * OBJECTS)]
    ask = lambda c, t, g: {"class": c, "bounds": box(), "target": t, "group": g}
    asked = [[ask(0, 0, 0), ask(1, 1, 0), ask(2, None, 0), ask(0, 0, 1), ask(2, 1, 1)], [ask(3, 0, 0), ask(0, 0, 1)], []] if anchored else [[], [], []]
    net = Net(r, OBJECTS + (kind == "softmax"), anchored, content, gelu, groups)
    features = torch.tensor(r.normal(size=(BATCH, ROWS, COLUMNS, CHANNELS)).astype(np.float32)).double()
    layers, dense = net.forward(features, asked)
    count, total, denoising, dense_loss, group_loss = max(map(len, asked)), 0., torch.zeros(()), torch.zeros(()), torch.zeros(())
    for logits, boxes in layers:
        matched = []
        for first in range(count, count + (1 + groups) * QUERIES, QUERIES):
            said = [(logits[n, first:first + QUERIES], boxes[n, first:first + QUERIES]) for n in range(BATCH)]
            matched.append(loss(kind, said, examples, [match(kind, *s, e["targets"], 1) for s, e in zip(said, examples)]))
        last = matched[0]
        total = total + weighted(last)
        group_loss = group_loss + sum(map(weighted, matched[1:])) / max(groups, 1)
        if anchored:
            said = [(logits[n, :len(q)], boxes[n, :len(q)]) for n, q in enumerate(asked)]
            denoising = denoising + weighted(loss(kind, said, examples, [[(i, q["target"]) for i, q in enumerate(a) if q["target"] is not None] for a in asked]))
    if dense:
        said = [(dense[0][n], dense[1][n]) for n in range(BATCH)]
        dense_loss = weighted(loss(kind, said, examples, [match(kind, *s, e["targets"], TOKENS) for s, e in zip(said, examples)]))
    (total + denoising + dense_loss + group_loss).backward()
    arrays = {"features": features}
    for n, x in net.w.items():
        arrays["weights." + n], arrays["gradient." + n] = x.detach(), x.grad
    folder = pathlib.Path(__file__).parent / "fixtures" / "training"
    folder.mkdir(exist_ok=True)
    save_file({n: np.ascontiguousarray(x.numpy(), dtype=np.float32) for n, x in arrays.items()}, folder / f"{name}.safetensors")
    losses = dict(total=float((total + denoising + dense_loss + group_loss).detach()), last=[float(x) for x in last.detach()], denoising=float(denoising.detach()), dense=float(dense_loss.detach()), groups=float(group_loss.detach()))
    (folder / f"{name}.json").write_text(json.dumps(dict(kind=kind, gelu=gelu, content=content, reference=content, groups=groups, examples=examples, asked=asked, losses=losses), indent=1) + "\n")
    print(name, losses)


torch.set_default_dtype(torch.float64)
make("anchored", "sigmoid", anchored=True, content=True, gelu=False, seed=1)
make("anchored-softmax", "softmax", anchored=True, content=True, gelu=True, seed=2)
make("plain", "softmax", anchored=False, content=False, gelu=False, seed=3)
make("reference", "sigmoid", anchored=False, content=True, gelu=False, seed=4)
make("anchored-groups", "sigmoid", anchored=True, content=True, gelu=False, seed=5, groups=2)
make("plain-groups", "softmax", anchored=False, content=False, gelu=False, seed=6, groups=3)
make("reference-groups", "softmax", anchored=False, content=True, gelu=True, seed=7, groups=1)
