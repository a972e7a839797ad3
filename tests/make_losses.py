"""Makes fixtures/losses.json: predictions of random queries, targets with everything that detrim's losses treat specially, and
the pairs, losses and gradients as PyTorch computes them (reference_losses.py).

    pip install torch scipy numpy
    python make_losses.py
"""
import json, pathlib
import numpy as np
import torch
import torch.nn.functional as F
from reference_losses import WEIGHTS, match, overlaps, sigmoid_loss, softmax_loss


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
