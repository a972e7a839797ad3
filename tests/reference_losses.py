"""Matching and losses in PyTorch, one picture at a time, written from the papers that src/train/loss.rs cites."""
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
