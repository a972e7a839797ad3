"""Average precision of a deployed DEIMv2 or D-FINE (`.onnx` with inputs `images` and `orig_target_sizes`) on a COCO label file, by onnxruntime
and pycocotools: what `detrim eval` of the same weights is held against.

python benches/onnx_ap.py MODEL.onnx LABELS.json IMAGES

Needs numpy, onnxruntime, pillow and pycocotools. Every image is stretched to the model's input by Pillow's bilinear filter and divided by 255. The
model's classes are COCO's 80 in their usual order; categories that the label file doesn't have are not counted."""

import argparse
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

# The ids of COCO's 80 classes, of 90.
MISSING = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_IDS = [number for number in range(1, 91) if number not in MISSING]


def detections(session, image_id, image):
    width, height = image.size
    side_y, side_x = session.get_inputs()[0].shape[2:]
    pixels = np.asarray(image.resize((side_x, side_y), Image.BILINEAR), np.float32) / 255
    feeds = {"images": pixels.transpose(2, 0, 1)[None], "orig_target_sizes": np.array([[width, height]], np.int64)}
    labels, boxes, scores = session.run(["labels", "boxes", "scores"], feeds)
    for label, (x0, y0, x1, y1), score in zip(labels[0], boxes[0].tolist(), scores[0]):
        yield {"image_id": image_id, "category_id": COCO_IDS[int(label)], "bbox": [x0, y0, x1 - x0, y1 - y0], "score": float(score)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("labels")
    parser.add_argument("images", type=Path)
    arguments = parser.parse_args()
    session = onnxruntime.InferenceSession(arguments.model, providers=["CPUExecutionProvider"])
    truth = COCO(arguments.labels)
    found = []
    for image in truth.loadImgs(truth.getImgIds()):
        with Image.open(arguments.images / image["file_name"]) as opened:
            found += detections(session, image["id"], opened.convert("RGB"))
    evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
    evaluation.params.maxDets = [1, 10, 300]
    evaluation.evaluate()
    evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    print(json.dumps({"AP": mean(precision), "AP50": mean(precision[0])}))


def mean(precision):
    return round(100 * float(precision[precision > -1].mean()), 2)


main()
