"""Checks `detrim export --onnx` by ONNX Runtime, in one go; run by hand:

    pip install onnx onnxruntime numpy pillow safetensors torch
    cargo build --release && python tests/check_onnx.py          # or --detrim target/debug/detrim

For the embedded models and the fixtures, at several opsets, with f32 and with stored weights, for one and for two images: ONNX's own checker accepts
the file with full shape inference, and the outputs are `detrim forward`'s (logits to 1e-3, Femto's to 2e-3, boxes to 1e-4; queries are compared by
content where near ties of their tokens swapped). Ends with an error where anything differs.
"""
import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file, save_file

from check_models import FIXTURES, MODELS

ROOT = Path(__file__).parent.parent
LOGITS, BOXES = 1e-3, 1e-4
# Of DEIMv2-Femto, f32 itself is off by as much: from PyTorch's float64, detrim's logits are by 1.0e-3, ONNX Runtime's by 5e-4.
FEMTO_LOGITS = 2e-3
failures = []


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def differences(found, expected):
    """The largest differences of logits and boxes, of each expected query to the found one that is nearest to it; no query is taken twice."""
    worst = np.zeros(2)
    for logits, boxes, wanted_logits, wanted_boxes in zip(*found, *expected):
        free = list(range(len(logits)))
        for i in range(len(wanted_logits)):
            far = [max(np.abs(logits[j] - wanted_logits[i]).max() / LOGITS, np.abs(boxes[j] - wanted_boxes[i]).max() / BOXES) for j in free]
            # Its own place, unless another fits better.
            place = free.index(i) if i in free and far[free.index(i)] <= 1 else int(np.argmin(far))
            j = free.pop(place)
            worst = np.maximum(worst, [np.abs(logits[j] - wanted_logits[i]).max(), np.abs(boxes[j] - wanted_boxes[i]).max()])
    return worst


def check(name, model, pixels, detrim, scratch, *options):
    size, out, case, named = "x".join(map(str, pixels.shape[2:])), scratch / "model.onnx", scratch / "case.safetensors", scratch / "named.safetensors"
    run(detrim, "export", model, "--onnx", out, "--size", size, "--batch", len(pixels), *options)
    onnx.checker.check_model(str(out), full_check=True)
    exact = onnxruntime.SessionOptions()
    # Products with int8 weights in f32: else ONNX Runtime rounds what they are multiplied with to int8, too.
    exact.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(out), exact, providers=["CPUExecutionProvider"])
    found = session.run(["logits", "pred_boxes"], {"pixel_values": pixels})
    save_file({"pixel_values": np.ascontiguousarray(pixels)}, case)
    run(detrim, "forward", model, case, "--out", named)
    expected = load_file(named)
    logits, boxes = differences(found, [expected["logits"], expected["pred_boxes"]])
    good = logits <= (FEMTO_LOGITS if name == "deimv2-femto" else LOGITS) and boxes <= BOXES
    print(f"{'ok    ' if good else 'WRONG '}{name} {size} × {len(pixels)} {' '.join(options)}: logits to {logits:.1e}, boxes to {boxes:.1e}", flush=True)
    if not good:
        failures.append(name)


def photo(height, width, images=1):
    names = ["chelsea", "astronaut"]
    return np.stack([
        np.asarray(Image.open(ROOT / f"www/samples/{names[i]}.png").convert("RGB").resize((width, height), Image.BILINEAR), np.float32).transpose(2, 0, 1) / 255
        for i in range(images)])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = next((path for path in (ROOT / "target/release/detrim", ROOT / "target/debug/detrim") if path.exists()), "detrim")
    parser.add_argument("--detrim", type=Path, default=default)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a detrim file to check instead, at 416 × 416, say a pruned one")
    args = parser.parse_args()
    detrim = args.detrim if str(args.detrim) == "detrim" else args.detrim.absolute()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for model in args.model:
            check(model.stem, model.absolute(), photo(416, 416), detrim, scratch)
            check(model.stem, model.absolute(), photo(416, 416), detrim, scratch, "--dtype", "stored")
        if args.model:
            sys.exit(f"{len(failures)} checks failed" if failures else 0)
        for name, options in FIXTURES.items():
            folder, model = ROOT / "tests/fixtures" / name, scratch / "fixture.safetensors"
            run(detrim, "convert", sorted(folder.glob("model.*"))[0], "--out", model, "--dtype", "f32", *options)
            cases = [path for path in sorted(folder.glob("*.safetensors")) if path.stem in ("case", "plain", "even")]
            for case in cases:
                pixels = load_file(case)["pixel_values"].astype(np.float32)
                check(f"{name}, {case.stem}", model, pixels, detrim, scratch)
            for opset in ("18", "20", "21", "23"):
                check(name, model, pixels, detrim, scratch, "--opset", opset)
            check(name, model, np.concatenate([pixels, 0.5 * pixels[:, :, ::-1]]), detrim, scratch)
            for dtype in ("f16", "int8"):
                run(detrim, "convert", model, "--out", scratch / "small.safetensors", "--dtype", dtype)
                check(f"{name} as {dtype}", scratch / "small.safetensors", pixels, detrim, scratch, "--dtype", "stored")
        for name in MODELS:
            model = ROOT / f"models/{name}.safetensors"
            size = {"deimv2-femto": (416, 416), "detr-lite0-speed": (384, 384)}[name]
            check(name, model, photo(*size), detrim, scratch)
            check(name, model, photo(*size), detrim, scratch, "--dtype", "stored")
    sys.exit(f"{len(failures)} checks failed" if failures else 0)


if __name__ == "__main__":
    main()
