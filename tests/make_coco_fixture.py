"""Makes fixtures/coco_metrics.json: random true boxes and detections with everything COCO's rules treat specially
(crowds, outlines smaller than their boxes, equal scores, more than 100 detections of a class in a picture, classes
without true boxes, pictures without any), and what pycocotools says of them.

    pip install pycocotools==2.0.11 numpy
    python make_coco_fixture.py
"""
import contextlib, io, json, pathlib
import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

r = np.random.default_rng(5)
images = [dict(id=int(3 * i + 2), file_name=f"{i}.png", width=400, height=300) for i in range(30)]
categories = [dict(id=i, name=f"class {i}") for i in (1, 3, 4, 9)]
annotations, detections = [], []
box = lambda: [round(float(v), 2) for v in (*r.uniform(0, 250, 2), *np.exp(r.uniform(2, 5, 2)))]
for image in images[:-2]:
    for _ in range(r.integers(0, 9)):
        b = box()
        annotations.append(dict(id=len(annotations) + 1, image_id=image["id"], category_id=int(r.choice([1, 3, 4])), bbox=b,
                                area=round(b[2] * b[3] * float(r.uniform(.5, 1)), 2), iscrowd=int(r.random() < .1)))
        for _ in range(r.integers(0, 4)):
            jitter = [round(v + float(r.normal()) * .12 * b[2 + i % 2], 2) for i, v in enumerate(b)]
            detections.append(dict(image_id=image["id"], category_id=annotations[-1]["category_id"] if r.random() < .8 else 9,
                                   bbox=jitter[:2] + [abs(v) for v in jitter[2:]], score=round(float(r.random()), 2)))
for image in images:
    for _ in range(r.integers(0, 12)):
        detections.append(dict(image_id=image["id"], category_id=int(r.choice([1, 3, 4, 9])), bbox=box(), score=round(float(r.random()) * .7, 2)))
detections += [dict(image_id=2, category_id=1, bbox=box(), score=round(float(r.random()), 2)) for _ in range(130)]
r.shuffle(detections)

with contextlib.redirect_stdout(io.StringIO()):
    truth = COCO(); truth.dataset = dict(images=images, annotations=annotations, categories=categories); truth.createIndex()
    e = COCOeval(truth, truth.loadRes([dict(d) for d in detections]), "bbox"); e.evaluate(); e.accumulate(); e.summarize()
p = e.eval["precision"]
each = [float(p[:, :, k, 0, 2].mean()) if (p[:, :, k, 0, 2] > -1).any() else None for k in range(len(categories))]
out = pathlib.Path(__file__).parent / "fixtures" / "coco_metrics.json"
out.write_text(json.dumps(dict(truth=dict(images=images, annotations=[{k: v for k, v in a.items() if k != "id"} for a in annotations], categories=categories),
                               detections=detections, metrics=[float(s) for s in e.stats], category_ap=each), separators=(",", ":")))
print([round(float(s), 4) for s in e.stats], each, out.stat().st_size)
