"""Close-ups of the training pictures' objects, labelled anew by the teacher, of which those are kept that a model takes for something else.

    pip install onnxruntime pillow numpy
    python close_ups.py cut DATA train_teacher.json FOLDER
    detrim eval --model MODEL --annotations FOLDER/close_ups.json --images FOLDER --save FOLDER/found.json
    python close_ups.py keep DATA train_teacher.json FOLDER

Pictures that people take for a collection show a cup from across the room; a camera in the hand shows it large. `cut` cuts windows of 1.4 to 2.6
times an object's longer side out of DATA/images and asks the teacher what they show (FOLDER/close_ups.json). `keep` takes those with a large object
that the teacher is sure of and that the model's best box on it names otherwise; FOLDER/train_teacher.json is the teacher's boxes with theirs, each
picture twice, so that training sees it in different views. What training reads is then in FOLDER: DATA's pictures are linked there.

The teacher takes some cups for bowls, most of all those that are seen from above. cups.json has what was seen to be cups when its boxes of both
were looked through; close-ups of these, turned by quarters where they are seen from above, are all kept. So are the pictures in FOLDER/rendered, if
render_cups.py has put some there, six times each.
"""

import argparse
import json
import random
from collections import Counter, defaultdict
from pathlib import Path

from teacher import Teacher, overlap, shared

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("step", choices=["cut", "keep"])
parser.add_argument("data", type=Path, help="the folder of images/ and teacher/")
parser.add_argument("labels", type=Path, help="the teacher's boxes on DATA/images")
parser.add_argument("folder", type=Path, help="where the close-ups go")
parser.add_argument("--of-a-class", type=int, default=200, help="close-ups of each class, at most [200]")
parser.add_argument("--more", default="cup,bowl,vase,wine glass,bottle,donut,cake", help="classes of which there are --more-of, separated by commas")
parser.add_argument("--more-of", type=int, default=1200)
parser.add_argument("--of-a-cup", type=int, default=24, help="close-ups of each cup of cups.json [24]")
parser.add_argument("--threads", type=int, default=2)

SMALLEST = 40  # pixels: a shorter longer side has nothing to show close up
LARGE = 0.06  # of the picture
SURE = 0.5
KNOWN = 0.95  # the score of what isn't the teacher's guess
# How often a close-up and a rendered picture that are kept are listed.
COPIES, RENDERED = 2, 6


def vessels(labels):
    return {category["name"]: category["id"] for category in labels["categories"] if category["name"] in ("cup", "bowl")}


def known_cups():
    cups = defaultdict(list)
    for cup in json.loads(Path(__file__).with_name("cups.json").read_text()):
        cups[cup["file_name"]].append(cup)
    return cups


def corrected(boxes, known, of=None):
    """The teacher's boxes, those in the places of known things (category, box) replaced; of the others' classes only those in `of`, where it is given."""
    boxes = [note for note in boxes if (of and note["category_id"] not in of) or all(overlap(note["bbox"], box) < 0.5 for _, box in known)]
    return boxes + [dict(category_id=kind, bbox=box, area=box[2] * box[3], iscrowd=0, score=KNOWN) for kind, box in known]


def turned(box, size, quarters):
    """A box in a picture of that size that is turned anticlockwise, as Image.rotate does."""
    x, y, width, height = box
    for _ in range(quarters):
        x, y, width, height = y, size[0] - x - width, height, width
        size = (size[1], size[0])
    return [x, y, width, height]


def labelled(teacher, picture):
    boxes = []
    for category, box, score in teacher.look(picture):
        if score >= 0.12:
            box = [round(value, 1) for value in box]
            boxes.append(dict(category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0, score=round(score, 3)))
    return boxes


def cut(options):
    from PIL import Image

    draw = random.Random(1)
    labels = json.loads(options.labels.read_text())
    images = {image["id"]: image for image in labels["images"]}
    kinds = vessels(labels)
    cups = known_cups()
    classes = defaultdict(list)
    for note in labels["annotations"]:
        if note["score"] >= 0.3 and max(note["bbox"][2:]) >= SMALLEST:
            classes[note["category_id"]].append(note)
    more = set(options.more.split(","))
    objects = []
    for category in labels["categories"]:
        of_it = classes[category["id"]]
        most = options.more_of if category["name"] in more else options.of_a_class
        objects += [(images[note["image_id"]]["file_name"], note["bbox"], 2.6, False) for note in draw.sample(of_it, min(len(of_it), most))]
    first_cup = len(objects)
    objects += [(name, cup["bbox"], 3.5, cup["from_above"]) for name in cups for cup in cups[name] for _ in range(options.of_a_cup)]

    teacher = Teacher(options.data / "teacher/deimv2_hgnetv2_femto_coco.onnx", labels["categories"], options.threads)
    (options.folder / "close_ups").mkdir(parents=True, exist_ok=True)
    shown, boxes = [], []

    def add(name, picture, notes, times):
        shown.append(dict(id=len(shown) + 1, file_name=name, width=picture.width, height=picture.height, times=times))
        for note in notes:
            boxes.append({**note, "id": len(boxes) + 1, "image_id": len(shown)})
        if len(shown) % 500 == 0:
            print(f"{len(shown)} close-ups of {len(objects)}, {len(boxes)} boxes", flush=True)

    for number, (source, (x, y, width, height), widest, turn) in enumerate(objects, 1):
        picture = Image.open(options.data / "images" / source).convert("RGB")
        side = max(width, height) * draw.uniform(1.4, widest)
        left, top = (start + length / 2 - side * draw.uniform(0.4, 0.6) for start, length in ((x, width), (y, height)))
        left, top, right, bottom = (round(edge) for edge in (max(left, 0), max(top, 0), min(left + side, picture.width), min(top + side, picture.height)))
        picture = picture.crop((left, top, right, bottom))
        quarters = draw.randrange(4) if turn else 0
        known = []
        for cup in cups[source]:
            x, y, width, height = cup["bbox"]
            if shared(cup["bbox"], [left, top, right - left, bottom - top]) >= 0.6 * width * height:
                x_end, y_end = min(x + width, right) - left, min(y + height, bottom) - top
                x, y = max(x - left, 0), max(y - top, 0)
                known.append((kinds["cup"], [round(value, 1) for value in turned([x, y, x_end - x, y_end - y], picture.size, quarters)]))
        picture = picture.rotate(90 * quarters, expand=True)
        name = f"close_ups/{number:05}.png"
        picture.save(options.folder / name)
        # What a model makes of it decides about the others.
        times = COPIES if number > first_cup else None
        add(name, picture, corrected(labelled(teacher, picture), known, kinds.values()), times)
    for file in sorted((options.folder / "rendered").glob("*.json")):
        known = [(kinds[kind], box) for kind, box in json.loads(file.read_text())]
        picture = Image.open(file.with_suffix(".png")).convert("RGB")
        add(f"rendered/{file.stem}.png", picture, corrected(labelled(teacher, picture), known), RENDERED)
    print(f"{len(shown)} pictures, {len(boxes)} boxes")
    (options.folder / "close_ups.json").write_text(json.dumps(dict(images=shown, annotations=boxes, categories=labels["categories"])))


def keep(options):
    labels = json.loads(options.labels.read_text())
    close_ups = json.loads((options.folder / "close_ups.json").read_text())
    names = {category["id"]: category["name"] for category in labels["categories"]}
    kinds = vessels(labels)
    found, boxes, whole = defaultdict(list), defaultdict(list), defaultdict(list)
    for detection in json.loads((options.folder / "found.json").read_text()):
        found[detection["image_id"]].append(detection)
    for note in close_ups["annotations"]:
        boxes[note["image_id"]].append(note)
    for note in labels["annotations"]:
        whole[note["image_id"]].append(note)

    seen, wrong, kept = Counter(), Counter(), []
    for image in close_ups["images"]:
        missed = False
        for note in boxes[image["id"]]:
            if note["score"] < SURE or note["area"] < LARGE * image["width"] * image["height"]:
                continue
            rivals = [other for other in boxes[image["id"]] if overlap(other["bbox"], note["bbox"]) >= 0.5]
            if max(rivals, key=lambda other: other["score"]) is not note:
                continue
            near = [one for one in found[image["id"]] if overlap(one["bbox"], note["bbox"]) >= 0.5]
            best = max(near, key=lambda one: one["score"], default=None)
            seen[names[note["category_id"]]] += 1
            if best is None or best["category_id"] != note["category_id"]:
                wrong[names[note["category_id"]]] += 1
                missed = True
        if missed or image["times"]:
            kept.append((image, image["times"] or COPIES))

    for source in (options.data / "images").iterdir():
        link = options.folder / source.name
        if not link.exists():
            link.symlink_to(source.resolve())
    cups = known_cups()
    pictures = []
    for image in labels["images"]:
        known = [(kinds["cup"], cup["bbox"]) for cup in cups[image["file_name"]]]
        pictures.append((image, corrected(whole[image["id"]], known, kinds.values())))
    for image, times in kept:
        for copy in range(times):
            name = f"{image['file_name'].removesuffix('.png')}-{copy}.png"
            if not (options.folder / name).exists():
                (options.folder / name).symlink_to(Path(image["file_name"]).name)
            size = {side: image[side] for side in ("width", "height")}
            pictures.append((dict(id=len(pictures) + 1, file_name=name, **size), boxes[image["id"]]))
    notes = [{**note, "image_id": image["id"]} for image, notes in pictures for note in notes]
    notes = [{**note, "id": number} for number, note in enumerate(notes, 1)]
    labels = dict(images=[image for image, _ in pictures], annotations=notes, categories=labels["categories"])
    (options.folder / "train_teacher.json").write_text(json.dumps(labels))
    print(f"{len(kept)} of {len(close_ups['images'])} close-ups are kept; of large objects that the teacher is sure of, taken for something else:")
    for name, count in wrong.most_common():
        print(f"  {name}: {count} of {seen[name]}")


options = parser.parse_args()
(cut if options.step == "cut" else keep)(options)
