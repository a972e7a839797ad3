"""Makes fixtures/coco_odd.json: annotation files with what tools write otherwise than COCO, and what pycocotools says of each. Where pycocotools
stumbles (null, missing, NaN), it is given the file as it is meant: `repair` says how. Also run-length encodings, with their boxes and areas.

    pip install pycocotools==2.0.11 numpy
    python make_coco_odd_fixture.py
"""
import contextlib, copy, io, json, math, pathlib
import numpy as np
from pycocotools import mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

r = np.random.default_rng(7)
box = lambda: [round(float(v), 1) for v in (*r.uniform(0, 120, 2), *np.exp(r.uniform(2, 4.5, 2)))]
base = dict(images=[dict(id=i, file_name=f"{i}.png", width=200, height=160) for i in range(1, 9)],
            categories=[dict(id=i, name=f"class {i}") for i in (1, 2, 5)], annotations=[])
found = []
for image in base["images"]:
    for _ in range(r.integers(2, 6)):
        b = box()
        category = int(r.choice([1, 2, 5]))
        base["annotations"].append(dict(id=len(base["annotations"]) + 1, image_id=image["id"], category_id=category, bbox=b,
                                        area=round(b[2] * b[3] * .8, 1), iscrowd=int(r.random() < .15)))
        for _ in range(r.integers(0, 3)):
            jittered = [round(v + float(r.normal()) * .07 * b[2 + i % 2], 1) for i, v in enumerate(b)]
            found.append(dict(image_id=image["id"], category_id=category, bbox=jittered, score=round(float(r.random()), 1)))
    found.append(dict(image_id=image["id"], category_id=int(r.choice([1, 2, 5])), bbox=box(), score=round(float(r.random()), 1)))
found += [dict(image_id=3, category_id=2, bbox=[10, 10, 0, 5], score=.9), dict(image_id=3, category_id=2, bbox=[30, 30, -5, 8], score=.8)]


def metrics(truth, detections):
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(); coco.dataset = copy.deepcopy(truth); coco.createIndex()
        e = COCOeval(coco, coco.loadRes(copy.deepcopy(detections)), "bbox"); e.evaluate(); e.accumulate(); e.summarize()
    return [float(s) for s in e.stats]


cases = []
def case(name, change=None, repair=None, detections=None):
    """`change` makes the file odd; pycocotools gets what `repair` makes of that."""
    odd, theirs = copy.deepcopy(base), detections or found
    if change: change(odd)
    meant = copy.deepcopy(odd)
    if repair: repair(meant)
    cases.append(dict(name=name, truth=json.dumps(odd), detections=detections and json.dumps(detections), metrics=metrics(meant, theirs)))


def each(key, to, where="annotations"):
    def change(file):
        for i, entry in enumerate(file[where]): entry[key] = to(entry.get(key), i)
    return change

def all_of(*changes):
    return lambda file: [change(file) for change in changes]

def without(key, every=1):
    def change(file):
        for entry in file["annotations"][::every]: entry.pop(key, None)
    return change

def only(condition):
    return lambda file: file.update(annotations=[a for a in file["annotations"] if condition(a)])

def ids(to):
    return all_of(each("id", lambda v, _: to(v), "images"), each("id", lambda v, _: to(v), "categories"),
                  each("image_id", lambda v, _: to(v)), each("category_id", lambda v, _: to(v)))

renamed = lambda to: [dict(d, image_id=to(d["image_id"]), category_id=to(d["category_id"])) for d in found]
usable = lambda a: isinstance(a.get("bbox"), list) and len(a["bbox"]) == 4 and all(isinstance(v, (int, float)) and math.isfinite(v) for v in a["bbox"]) and min(a["bbox"][2:]) > 0
def by_box(file):
    for a in file["annotations"]:
        if a.get("area") is None or not math.isfinite(a["area"]): a["area"] = a["bbox"][2] * a["bbox"][3]

case("as COCO has it")
case("ids as floats", ids(float))
case("ids below zero", ids(lambda v: v - 5), detections=renamed(lambda v: v - 5))
case("ids as texts", ids(lambda v: f"n{v}"), detections=renamed(lambda v: f"n{v}"))
case("ids as file names", all_of(each("id", lambda v, _: f"{v}.png", "images"), each("image_id", lambda v, _: f"{v}.png")),
     detections=[dict(d, image_id=f"{d['image_id']}.png") for d in found])
case("ids beyond 64 bits", ids(lambda v: v + 2**70), detections=renamed(lambda v: v + 2**70))
case("numbers written as texts", all_of(each("image_id", lambda v, _: str(v)), each("category_id", lambda v, _: str(v))),
     all_of(each("image_id", lambda v, _: int(v)), each("category_id", lambda v, _: int(v))))
case("annotations numbered from 0", each("id", lambda _, i: i))
case("annotations that share ids", each("id", lambda _, i: i % 9 + 1))
case("annotations that share the id 0", each("id", lambda _, i: i % 5))
case("crowds as truths", each("iscrowd", lambda v, _: bool(v)))
case("crowds as floats", each("iscrowd", lambda v, _: float(v)))
case("crowds as null", each("iscrowd", lambda v, _: v or None), each("iscrowd", lambda v, _: v or 0))
case("no crowds", without("iscrowd"), each("iscrowd", lambda *_: 0))
case("ignored as well", each("ignore", lambda _, i: i % 2))
case("no areas", without("area", 2), by_box)
case("areas that are null", each("area", lambda v, i: v if i % 3 else None), by_box)
case("areas that aren't numbers", each("area", lambda v, i: v if i % 3 else math.nan), by_box)
case("of no picture and no category", all_of(each("image_id", lambda v, i: v if i % 7 else 99), each("category_id", lambda v, i: v if i % 6 else 98)))
case("numbers that JSON doesn't have", lambda file: file.update(info=dict(mean=math.nan, least=-math.inf, most=math.inf)))
odd_boxes = [[], None, [1, 2, math.nan, 4], [1, 2, 3, math.inf], [1, 2, 0, 4], [1, 2, 3, 0], [1, 2, -3, 4], [1, 2, 3], [1, 2, 3, 4, 5], "1,2,3,4", {}, [None] * 4]
case("boxes that can't be", each("bbox", lambda v, i: odd_boxes[i // 2 % len(odd_boxes)] if i % 2 else v), only(usable))
case("the same pictures twice", lambda file: file["images"].extend(file["images"][:3]))


def outlined(compressed):
    """Every other annotation has an outline in place of its box."""
    def change(file):
        for a in file["annotations"][::2]:
            pixels = np.zeros((160, 200), np.uint8, order="F")
            x, y, w, h = (int(v) for v in a.pop("bbox"))
            pixels[y:y + h, x:x + w] = 1
            pixels[y:y + h // 3, x:x + w // 2] = 0
            code = mask.encode(pixels)
            a["segmentation"] = dict(size=code["size"], counts=code["counts"].decode() if compressed else runs(pixels))
            del a["area"]
    return change

def runs(pixels):
    flat, counts, last = pixels.flatten(order="F"), [], 0
    for value in flat:
        if value != last or not counts:
            counts.append(0) if value == last else counts.extend([0, 0] if not counts else [0])
            last = value
        counts[-1] += 1
    return [int(c) for c in counts]

def decode(file):
    for a in file["annotations"]:
        if "segmentation" in a:
            code = a["segmentation"]
            if isinstance(code["counts"], list): code = mask.frPyObjects(code, *code["size"])
            a["bbox"], a["area"] = [float(v) for v in mask.toBbox(code)], float(mask.area(code))

case("run lengths for boxes", outlined(False), decode)
case("compressed run lengths for boxes", outlined(True), decode)

codes = []
for height, width, share in [(1, 1, 1), (7, 5, .3), (16, 31, .02), (40, 24, .5), (64, 64, .97), (300, 200, .001), (3, 90, .1)]:
    pixels = np.asfortranarray(r.random((height, width)) < share).astype(np.uint8, order="F")
    if pixels.any():
        code = mask.encode(pixels)
        for counts in [code["counts"].decode(), runs(pixels)]:
            codes.append(dict(text=json.dumps(dict(size=[height, width], counts=counts)), bbox=[float(v) for v in mask.toBbox(code)], area=float(mask.area(code))))

out = pathlib.Path(__file__).parent / "fixtures" / "coco_odd.json"
out.write_text(json.dumps(dict(detections=json.dumps(found), cases=cases, codes=codes), separators=(",", ":")))
for c in cases: print([round(m, 4) for m in c["metrics"][:3]], c["name"])
print(len(codes), "codes,", out.stat().st_size, "bytes")
