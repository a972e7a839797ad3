"""Checks examples/pytorch against the native command, in one go; run by hand:

    pip install torch safetensors numpy pillow
    cargo build --release && python tests/check_pytorch.py          # or --detrim target/debug/detrim

For the embedded models and the fixtures: files survive PyTorch (tensors to 1e-5, the header as it was), every named activation is `detrim
forward`'s, detections are `detrim detect`'s, `train.py` runs under torchrun in two processes on the CPU, with the losses that one process has, and
what it writes is read by `detrim inspect` and `detrim detect`. Ends with an error where anything differs.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from check_models import FIXTURES, MODELS

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples/pytorch"
sys.path.insert(0, str(EXAMPLE))
from detrim_torch import detect, load, open_image, preprocess, read, save  # noqa: E402

PHOTO = ROOT / "www/samples/chelsea.png"
failures = []


def check(good, what):
    print(("ok    " if good else "WRONG ") + what, flush=True)
    if not good:
        failures.append(what)


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def cases_of(folder):
    names = ("case", "plain", "masked", "even")
    return sorted(path for path in folder.glob("*.safetensors") if path.stem in names)


def check_file(name, file, cases, detrim, scratch):
    model, again, named = load(file), scratch / "again.safetensors", scratch / "named.safetensors"
    save(model, again)
    (header, tensors), (new_header, new_tensors) = read(file), read(again)
    same = tensors.keys() == new_tensors.keys() and all((tensors[key] - new_tensors[key]).abs().max() <= 1e-5 for key in tensors)
    run(detrim, "inspect", again)
    check(same and header == new_header, f"{name}: the same after PyTorch, and `detrim inspect` reads it")
    for case in cases:
        run(detrim, "forward", again, case, "--out", named)
        given, expected = load_file(case), load_file(named)
        mask = given["pixel_mask"] != 0 if "pixel_mask" in given else None
        with torch.no_grad():
            output = model(given["pixel_values"].float(), mask)
        check_activations(f"{name}, {case.stem}", output.named, expected)


def check_activations(name, found, expected):
    order = None
    if "enc_topk_ind" in expected:
        # Tokens whose scores are nearly equal may be selected in another order.
        chosen, wanted = found["enc_topk_ind"].long(), expected["enc_topk_ind"].long()
        order = [[row.tolist().index(token) for token in tokens.tolist()] if set(row.tolist()) == set(tokens.tolist()) else None
                 for row, tokens in zip(chosen, wanted)]
        if None in order:
            return check(False, f"{name}: other tokens are selected")
    worst = {}
    for key, wanted in expected.items():
        value = found[key].float()
        if value.shape[0] == 1 < wanted.shape[0]:
            value = value.expand(wanted.shape)
        if order is not None and not key.startswith(("backbone", "encoder")):
            value = torch.stack([image[places] for image, places in zip(value, order)])
        allowed = {"logits": 5e-3, "pred_boxes": 2e-4}.get(key, 1e-3 * wanted.abs().max().item())
        difference = (value - wanted).abs().max().item() if value.shape == wanted.shape else float("inf")
        worst[key] = difference / allowed
    logits, boxes = worst["logits"] * 5e-3, worst["pred_boxes"] * 2e-4
    key = max(worst, key=worst.get)
    check(worst[key] <= 1, f"{name}: {len(worst)} activations, logits to {logits:.1e}, boxes to {boxes:.1e}; {key} takes {worst[key]:.3f} of what is allowed")


def check_detections(name, file, detrim):
    threshold = 0.3
    native = json.loads(run(detrim, "detect", PHOTO, "--model", file, "--threshold", threshold, "--backend", "cpu", "--json", "-"))[0]["detections"]
    own = detect(load(file), open_image(PHOTO), threshold)
    same = len(native) == len(own) and all(
        a["label"] == label and abs(a["score"] - score) < 5e-3 and max(abs(a["box"][key] - side) for key, side in zip(("xmin", "ymin", "xmax", "ymax"), box)) < 0.5
        for a, (label, score, box) in zip(native, own))
    check(same, f"{name}: the {len(native)} detections of `detrim detect` ({', '.join(sorted({a['label'] for a in native}))})")


def train(scratch, processes, *options):
    """Runs train.py, and gives the losses that it printed."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--master_port=29517", str(EXAMPLE / "train.py")]
    command += ["--out", scratch / f"trained{processes}.safetensors", "--workers", "0", "--every", "1", *options]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    return [float(line.split("loss ")[1].split(",")[0]) for line in lines]


def check_training(detrim, scratch):
    images = ROOT / "www/samples"
    file = ROOT / "models/deimv2-femto.safetensors"
    # The model's own detections as labels.
    found = json.loads(run(detrim, "detect", *sorted(images.glob("*.png")), "--model", file, "--threshold", "0.5", "--json", "-"))
    names = {label["name"]: label["id"] for label in read(file)[0]["config"]["labels"]}
    labels = scratch / "labels.json"
    boxes = [(i, d) for i, one in enumerate(found) for d in one["detections"]]
    labels.write_text(json.dumps({
        "images": [{"id": i, "file_name": Path(one["file"]).name} for i, one in enumerate(found)],
        "categories": [{"id": id, "name": name} for name, id in names.items()],
        "annotations": [
            {"id": n + 1, "image_id": i, "category_id": d["id"], "bbox": [d["box"]["xmin"], d["box"]["ymin"], d["box"]["xmax"] - d["box"]["xmin"], d["box"]["ymax"] - d["box"]["ymin"]]}
            for n, (i, d) in enumerate(boxes)],
    }))
    common = ["--model", file, "--images", images, "--labels", labels, "--steps", "3", "--no-flip", "--warmup", "1", "--rate", "1e-5"]
    two = train(scratch, 2, *common, "--batch", "1")
    one = train(scratch, 1, *common, "--batch", "2")
    print("      losses of two processes:", two, "and of one:", one)
    close = len(two) == 3 and all(abs(a - b) <= 0.01 * b for a, b in zip(two, one))
    check(close, "train.py on labels: two processes with one image each have the losses of one process with two")
    check_trained(detrim, file, scratch / "trained2.safetensors", "trained on labels")

    speed, base = (ROOT / f"models/detr-lite0-{name}.safetensors" for name in ("speed", "base"))
    losses = train(scratch, 2, "--model", speed, "--teacher", base, "--images", images, "--batch", "2", "--steps", "2", "--rate", "1e-5",
                   "--warmup", "1")
    print("      losses:", losses)
    check(len(losses) == 2, "train.py by a teacher whose backbone is wider: two processes")
    check_trained(detrim, speed, scratch / "trained2.safetensors", "trained by a teacher")
    losses = train(scratch, 1, "--model", file, "--teacher", file, "--images", images, "--batch", "1", "--steps", "1")
    check(abs(losses[0]) < 1e-4, f"a model has nothing to learn of itself (loss {losses[0]})")


def check_trained(detrim, before, after, what):
    (_, old), (header, new) = read(before), read(after)
    moved = sum(not torch.equal(old[key], new[key]) for key in old)
    run(detrim, "inspect", after)
    found = json.loads(run(detrim, "detect", PHOTO, "--model", after, "--threshold", "0.3", "--json", "-"))[0]["detections"]
    good = moved > 0.9 * len(old) and "trained in PyTorch" in header["card"]["provenance"][-1] and any(d["label"] == "cat" for d in found)
    check(good, f"{what}: {moved} of {len(old)} tensors have changed, `detrim inspect` and `detrim detect` read the file, and the cat is found")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = next((path for path in (ROOT / "target/release/detrim", ROOT / "target/debug/detrim") if path.exists()), "detrim")
    parser.add_argument("--detrim", type=Path, default=default)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a detrim file to check instead, say a pruned one")
    parser.add_argument("--no-training", action="store_true")
    args = parser.parse_args()
    detrim = args.detrim if str(args.detrim) == "detrim" else args.detrim.absolute()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for file in args.model or [ROOT / f"models/{name}.safetensors" for name in MODELS]:
            name, file = file.stem, file.absolute()
            case = scratch / "case.safetensors"
            save_file({"pixel_values": preprocess(open_image(PHOTO), read(file)[0]["config"])[None].contiguous()}, case)
            check_file(name, file, [case], detrim, scratch)
            check_detections(name, file, detrim)
        if args.model:
            sys.exit(f"{len(failures)} checks failed" if failures else 0)
        for name, options in FIXTURES.items():
            folder, file = ROOT / "tests/fixtures" / name, scratch / "model.safetensors"
            model = next(path for path in sorted(folder.glob("model.*")))
            run(detrim, "convert", model, "--out", file, "--dtype", "f32", *options)
            check_file(name, file, cases_of(folder), detrim, scratch)
            # int8 is multiplied by its scales.
            run(detrim, "convert", file, "--out", file, "--dtype", "int8")
            check_file(f"{name} as int8", file, cases_of(folder)[:1], detrim, scratch)
        if not args.no_training:
            check_training(detrim, scratch)
    sys.exit(f"{len(failures)} checks failed" if failures else 0)


if __name__ == "__main__":
    main()
