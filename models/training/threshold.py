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

from teacher import Teacher, overlap

data, onnx, truth = map(Path, sys.argv[1:4])


def label():
    from PIL import Image

    dev, categories = (json.loads((data / name).read_text()) for name in ("dev.json", "categories.json"))
    number = {category["name"]: category["id"] for category in categories}
    people = {category["id"]: number[category["name"]] for category in dev["categories"]}
    annotations = [{**note, "category_id": people[note["category_id"]]} for note in dev["annotations"]]
    known = {note["category_id"] for note in annotations}
    teacher = Teacher(onnx, categories)
    for image in dev["images"]:
        for category, box, score in teacher.look(Image.open(data / "images" / image["file_name"]).convert("RGB")):
            if score >= 0.5 and category not in known:
                annotations.append(dict(image_id=image["id"], category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0))
    annotations = [{**note, "id": i + 1} for i, note in enumerate(annotations)]
    truth.write_text(json.dumps(dict(images=dev["images"], annotations=annotations, categories=categories)))


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
