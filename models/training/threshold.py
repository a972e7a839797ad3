"""F1 by threshold on dev.json: of the twenty classes that people labelled, and of the sixty that only the teacher knows.

    pip install onnxruntime pillow numpy
    detrim eval --model MODEL --annotations dev80.json --images images --save found.json
    python threshold.py DATA TEACHER.onnx dev80.json [found.json]

The first time, without found.json, it writes dev80.json: people's boxes, and of the other classes the teacher's from a score of 0.5 on. DATA is a
folder with dev.json, categories.json and images/.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

data, teacher, truth = map(Path, sys.argv[1:4])


def label():
    import numpy as np
    import onnxruntime
    from PIL import Image

    dev, categories = (json.loads((data / name).read_text()) for name in ("dev.json", "categories.json"))
    number = {category["name"]: category["id"] for category in categories}
    people = {category["id"]: number[category["name"]] for category in dev["categories"]}
    annotations = [{**note, "category_id": people[note["category_id"]]} for note in dev["annotations"]]
    known = {note["category_id"] for note in annotations}
    network = onnxruntime.InferenceSession(str(teacher))
    for image in dev["images"]:
        size = [image["width"], image["height"]]
        pixels = np.asarray(Image.open(data / "images" / image["file_name"]).convert("RGB").resize((416, 416), Image.BILINEAR), np.float32)
        inputs = {"images": pixels.transpose(2, 0, 1)[None] / 255, "orig_target_sizes": np.array([size], np.int64)}
        for category, box, score in zip(*(output[0].tolist() for output in network.run(None, inputs))):
            category = categories[int(category)]["id"]
            left, top, right, bottom = (min(max(x, 0), side) for x, side in zip(box, size * 2))
            if score >= 0.5 and category not in known:
                box = [left, top, right - left, bottom - top]
                annotations.append(dict(image_id=image["id"], category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0))
    annotations = [{**note, "id": i + 1} for i, note in enumerate(annotations)]
    truth.write_text(json.dumps(dict(images=dev["images"], annotations=annotations, categories=categories)))


def overlap(a, b):
    width, height = (min(a[i] + a[i + 2], b[i] + b[i + 2]) - max(a[i], b[i]) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / (a[2] * a[3] + b[2] * b[3] - shared)


def judged(annotations, detections):
    """(score, class, whether it is right) of every detection, but for those of what is to be ignored."""
    wanted = defaultdict(list)
    for note in annotations:
        wanted[note["image_id"], note["category_id"]].append(note)
    taken = set()
    for found in sorted(detections, key=lambda found: -found["score"]):
        near = [(overlap(found["bbox"], note["bbox"]), note["id"], note) for note in wanted[found["image_id"], found["category_id"]]]
        near = max((n for n in near if n[0] >= 0.5 and n[1] not in taken), default=None, key=lambda n: (not n[2]["iscrowd"], n[0]))
        if near is None or not near[2]["iscrowd"]:
            taken.update([near[1]] if near else [])
            yield found["score"], found["category_id"], near is not None


def main():
    if len(sys.argv) < 5:
        return label()
    annotations = json.loads(truth.read_text())["annotations"]
    counts = Counter(note["category_id"] for note in annotations if not note["iscrowd"])
    dev = json.loads((data / "dev.json").read_text())
    names = {category["name"]: category["id"] for category in json.loads(truth.read_text())["categories"]}
    labelled = {note["category_id"] for note in dev["annotations"]}
    people = {names[category["name"]] for category in dev["categories"] if category["id"] in labelled}
    found = list(judged(annotations, json.loads(Path(sys.argv[4]).read_text())))

    def f1(threshold, classes):
        shown = [right for score, category, right in found if score >= threshold and category in classes]
        return 200 * sum(shown) / max(len(shown) + sum(counts[category] for category in classes), 1)

    print("from   people's   mean of 20   others")
    for threshold in (0.2, 0.24, 0.26, 0.28, 0.3, 0.32, 0.34, 0.36, 0.38, 0.4):
        each = [f1(threshold, {category}) for category in people if counts[category]]
        print(f"{threshold:.2f}   {f1(threshold, people):6.1f}     {sum(each) / len(each):6.1f}       {f1(threshold, set(names.values()) - people):6.1f}")


main()
