"""Makes fixtures/losses.json: predictions of random queries, targets with everything that detrim's losses treat specially, and
the pairs, losses and gradients as PyTorch computes them. Written from the papers that src/train/loss.rs cites.

    pip install torch scipy numpy
    python make_losses.py
"""
import json, pathlib
import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

torch.set_default_dtype(torch.float64)
LEAST, NO_OBJECT = .3, .1
WEIGHTS = dict(class_=1., l1=5., giou=2.)


def corners(b):
    return torch.cat([b[..., :2] - b[..., 2:] / 2, b[..., :2] + b[..., 2:] / 2], -1)


def overlaps(a, b):
    """IoU, generalised IoU, and the part of a inside b, of each a [n, 4] with each b [m, 4] (cxcywh)."""
    a, b = corners(a)[:, None], corners(b)[None]
    area = lambda x: (x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1])
    extent = lambda low, high: (high - low).clamp(min=0).prod(-1)
    shared = extent(torch.max(a[..., :2], b[..., :2]), torch.min(a[..., 2:], b[..., 2:]))
    hull = extent(torch.min(a[..., :2], b[..., :2]), torch.max(a[..., 2:], b[..., 2:]))
    union = area(a) + area(b) - shared
    return shared / union, shared / union - (hull - union) / hull, shared / area(a)


def match(kind, logits, boxes, targets, repeat):
    certain = [i for i, t in enumerate(targets) if t["weight"] >= LEAST] * repeat
    if not certain:
        return []
    aim = torch.tensor([targets[i]["bounds"] for i in certain])
    classes = [targets[i]["class"] for i in certain]
    if kind == "softmax":
        class_cost, weight = -logits.softmax(-1)[:, classes], 1
    else:
        p = logits.sigmoid()[:, classes]
        class_cost, weight = .25 * (1 - p) ** 2 * -(p + 1e-8).log() - .75 * p ** 2 * -(1 - p + 1e-8).log(), 2
    cost = weight * class_cost + 5 * torch.cdist(boxes, aim, p=1) - 2 * overlaps(boxes, aim)[1]
    return sorted((int(q), certain[c]) for q, c in zip(*linear_sum_assignment(cost.detach().numpy())))


def doubts(box, targets):
    """What the doubtful targets at a box say, class by class; the nearest of a class decides."""
    found = {}
    for t in targets:
        if t["weight"] < LEAST:
            iou, _, inside = (x.item() for x in overlaps(box[None], torch.tensor([t["bounds"]])))
            near = inside if t["weight"] == 0 else iou
            if near > .5 and near > found.get(t["class"], (0,))[0]:
                found[t["class"]] = near, t["weight"]
    return {c: w for c, (_, w) in found.items()}


def softmax_loss(logits, boxes, targets, known, pairs):
    answer, total, norm = dict(pairs), 0, 0
    for q, row in enumerate(logits.log_softmax(-1)):
        if q in answer:
            t = targets[answer[q]]
            total, norm = total - t["weight"] * row[t["class"]], norm + t["weight"]
            continue
        said = doubts(boxes[q], targets)
        soft = {c: w for c, w in said.items() if w > 0}
        free = [c for c, k in enumerate(known) if (not k and c not in said) or said.get(c) == 0] + [len(known)]
        scale = max(1, sum(soft.values()))
        loss = -sum(w / scale * row[c] for c, w in soft.items()) - (1 - sum(soft.values()) / scale) * row[free].logsumexp(0)
        total, norm = total + NO_OBJECT * loss, norm + NO_OBJECT
    return total, norm


def sigmoid_loss(logits, boxes, targets, known, pairs):
    aim = torch.zeros_like(logits)
    counts = torch.tensor(known).expand_as(logits).clone()
    answer = dict(pairs)
    for q in range(len(logits)):
        if q in answer:
            t = targets[answer[q]]
            aim[q, t["class"]] = t["weight"] * overlaps(boxes[q:q + 1], torch.tensor([t["bounds"]]))[0].item()
            counts[q, t["class"]] = True
            continue
        for c, w in doubts(boxes[q], targets).items():
            aim[q, c], counts[q, c] = w, w > 0
    focal = (logits.sigmoid() - aim).abs() ** 2 * F.binary_cross_entropy_with_logits(logits, aim, reduction="none")
    return (focal * counts).sum(), sum(targets[t]["weight"] for _, t in pairs)


def case(name, kind, logits, boxes, targets, known, repeat=1):
    # As float32 has them.
    logits, boxes = (torch.tensor(x, dtype=torch.float32).double().requires_grad_() for x in (logits, boxes))
    for t in targets:
        t["bounds"] = [float(np.float32(x)) for x in t["bounds"]]
    pairs = match(kind, logits, boxes, targets, repeat)
    class_loss, norm = (softmax_loss if kind == "softmax" else sigmoid_loss)(logits, boxes, targets, known, pairs)
    count = max(1., sum(targets[t]["weight"] for _, t in pairs))
    class_loss = class_loss / (norm if kind == "softmax" else count)
    l1 = giou = boxes.sum() * 0
    for q, t in pairs:
        t, w = torch.tensor([targets[t]["bounds"]]), targets[t]["weight"]
        l1 = l1 + w * F.l1_loss(boxes[q:q + 1], t, reduction="sum") / count
        giou = giou + w * (1 - overlaps(boxes[q:q + 1], t)[1].sum()) / count
    (WEIGHTS["class_"] * class_loss + WEIGHTS["l1"] * l1 + WEIGHTS["giou"] * giou).backward()
    flat = lambda x: [float(f"{v:.8g}") for v in x.detach().flatten().tolist()]
    return dict(name=f"{kind}: {name}", kind=kind, classes=logits.shape[1], logits=flat(logits), boxes=flat(boxes), targets=targets, known=known, repeat=repeat,
                pairs=pairs, parts=[float(x.detach()) for x in (class_loss, l1, giou)], grad_logits=flat(logits.grad), grad_boxes=flat(boxes.grad))


r = np.random.default_rng(7)
box = lambda: [float(x) for x in (*r.uniform(.2, .8, 2), *r.uniform(.05, .4, 2))]
near = lambda b, by=.02: [float(x) for x in np.array(b) + r.normal(size=4) * by * min(b[2:])]
target = lambda b, c, w=1.: {"class": int(c), "bounds": b, "weight": w}
cases = []
for kind, extra in (("softmax", 1), ("sigmoid", 0)):
    def make(name, queries, targets, objects=5, known=None, repeat=1, boxes=None):
        boxes = boxes or [box() for _ in range(queries)]
        # One certain and one doubtful query look at some targets.
        for t in targets:
            if r.random() < .7:
                boxes[int(r.integers(queries))] = near(t["bounds"])
        logits = r.normal(size=(queries, objects + extra)) * 2
        cases.append(case(name, kind, logits.tolist(), boxes, targets, known or [True] * objects, repeat))
    make("plain", 8, [target(box(), r.integers(5)) for _ in range(4)])
    make("no targets", 5, [])
    make("more targets than queries", 4, [target(box(), r.integers(5)) for _ in range(7)])
    make("unknown classes", 8, [target(box(), r.integers(5)) for _ in range(3)], known=[True, False, True, False, True])
    make("less sure targets", 8, [target(box(), r.integers(5), w) for w in (.35, .6, .9)])
    make("one to many", 12, [target(box(), r.integers(5)) for _ in range(3)], repeat=3)
    crowd = target([.5, .5, .9, .8], 1, 0.)
    make("a crowd", 8, [target(box(), 1), crowd])
    b = box()
    doubtful = [target(near(b), 0, .2), target(near(b), 2, .25), target(near(b, .1), 2, .1), target(near(b), 3, .29), target(near(b), 4, 0.)]
    make("doubtful targets", 6, [target(box(), 1), *doubtful], known=[True, True, False, True, True], boxes=[box() for _ in range(4)] + [near(b), near(b, .05)])
    heap = [target(near(b), c, .29) for c in range(5)]
    make("doubtful targets that want more than there is", 3, heap, boxes=[b, near(b), box()])

out = pathlib.Path(__file__).parent / "fixtures" / "losses.json"
out.write_text(json.dumps(cases, separators=(",", ":")) + "\n")
print(f"{len(cases)} cases, {out.stat().st_size} bytes")
