"""Trains or fine-tunes a detrim file in PyTorch, on labels, on a teacher's outputs, or both; on any number of processes, GPUs and machines.

    torchrun --nproc_per_node=8 train.py --model small.safetensors --images photos --labels instances.json --out trained.safetensors
    torchrun --nproc_per_node=8 train.py --model small.safetensors --images photos --teacher large.safetensors --out trained.safetensors

A plain loop (DistributedDataParallel, AdamW, warm-up and cosine, flips), made to be read and changed. README.md beside it says what it leaves out.
"""
import argparse
import contextlib
import json
import math
import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from detrim_torch import Detr, corners, load, open_image, preprocess, save, scores

IMAGE_ENDINGS = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
# What counts how much: in the loss, and in the matching of queries and objects. DETR's numbers; the class cost is Deformable DETR's.
L1, GIOU, CLASS_COST_SIGMOID, NO_OBJECT = 5.0, 2.0, 2.0, 0.1


# -------------------------------------------------------------------------------------------------------------------------------- images


class Images(Dataset):
    """Images of a folder as the network takes them, with boxes (centre, size, in fractions) and classes where there are labels."""

    def __init__(self, config, folder, labels, flip):
        self.config, self.flip = config, flip
        if labels is None:
            files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in IMAGE_ENDINGS)
            self.items = [(path, None) for path in files]
        else:
            self.items = read_coco(labels, folder, config)
        if not self.items:
            raise SystemExit(f"{folder}: no images")

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        path, objects = self.items[index]
        image = open_image(path)
        pixels = preprocess(image, self.config)
        classes = torch.tensor([found[0] for found in objects or []], dtype=torch.long)
        boxes = torch.tensor([found[1] for found in objects or []], dtype=torch.float32).reshape(-1, 4)
        boxes = boxes / torch.tensor([*image.size] * 2)
        boxes = torch.cat([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1)
        if self.flip and random.random() < 0.5:
            pixels = pixels.flip(2)
            boxes[:, 0] = 1 - boxes[:, 0]
        return pixels, classes, boxes


def read_coco(labels, folder, config):
    """[(file, [(class, [x, y, width, height])])] of an annotation file in COCO's format. Classes are found by name. Crowds are left out."""
    data = json.loads(Path(labels).read_text())
    class_of = {label["name"].lower(): i for i, label in enumerate(config["labels"])}
    unknown = [c["name"] for c in data["categories"] if c["name"].lower() not in class_of]
    if unknown:
        print(f"{labels}: the model has no class {', '.join(unknown[:5])}: their boxes are left out (`detrim train` makes heads for other classes)")
    class_of = {c["id"]: class_of[c["name"].lower()] for c in data["categories"] if c["name"].lower() in class_of}
    objects = {image["id"]: [] for image in data["images"]}
    for a in data.get("annotations", []):
        if a["category_id"] in class_of and not a.get("iscrowd") and min(a["bbox"][2:]) > 0:
            objects[a["image_id"]].append((class_of[a["category_id"]], a["bbox"]))
    return [(Path(folder) / image["file_name"], objects[image["id"]]) for image in data["images"]]


def collate(batch):
    """Images of several sizes are padded below and on the right; the mask says where an image is."""
    height, width = (max(pixels.shape[axis] for pixels, _, _ in batch) for axis in (1, 2))
    padded, mask = torch.zeros(len(batch), 3, height, width), torch.zeros(len(batch), height, width, dtype=torch.bool)
    for i, (pixels, _, _) in enumerate(batch):
        padded[i, :, :pixels.shape[1], :pixels.shape[2]] = pixels
        mask[i, :pixels.shape[1], :pixels.shape[2]] = True
    return padded, mask, [classes for _, classes, _ in batch], [boxes for _, _, boxes in batch]


# -------------------------------------------------------------------------------------------------------------------------------- losses


def giou(a, b):
    """Generalised IoU and IoU of corner boxes [n, 4] with [m, 4]: [n, m] each."""
    area = lambda box: (box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1)
    a, b = a[:, None], b[None]
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    outer = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = area(a) + area(b) - inner
    iou = inner / union.clamp(min=1e-9)
    return iou - (outer - union) / outer.clamp(min=1e-9), iou


def cheapest(costs):
    """The cheapest matching of `costs` [rows, columns], rows ≤ columns: the column of each row (Hungarian method, shortest augmenting paths)."""
    rows, columns = costs.shape
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    row_of, way = np.zeros(columns + 1, dtype=int), np.zeros(columns + 1, dtype=int)
    for row in range(1, rows + 1):
        row_of[0], column = row, 0
        least, used = np.full(columns + 1, np.inf), np.zeros(columns + 1, dtype=bool)
        while True:
            used[column] = True
            at = row_of[column]
            reduced = costs[at - 1] - row_price[at] - column_price[1:]
            closer = ~used[1:] & (reduced < least[1:])
            least[1:][closer], way[1:][closer] = reduced[closer], column
            following = np.where(used, np.inf, least).argmin()
            delta = least[following]
            row_price[row_of[used]] += delta
            column_price[used] -= delta
            least[~used] -= delta
            column = following
            if row_of[column] == 0:
                break
        while column:
            row_of[column], column = row_of[way[column]], way[column]
    found = np.zeros(rows, dtype=int)
    for column in range(1, columns + 1):
        if row_of[column]:
            found[row_of[column] - 1] = column - 1
    return found


@torch.no_grad()
def match(logits, boxes, classes, targets, softmax):
    """Which query [objects] answers for which object of an image; at most as many objects as there are queries."""
    if len(targets) == 0:
        return torch.zeros(0, dtype=torch.long, device=logits.device)
    logits, boxes = logits.float(), boxes.float()
    if softmax:
        class_cost = -logits.softmax(-1)[:, classes]
    else:
        p = logits.sigmoid()[:, classes]
        positive, negative = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log(), 0.75 * p ** 2 * -(1 - p + 1e-8).log()
        class_cost = CLASS_COST_SIGMOID * (positive - negative)
    cost = class_cost + L1 * torch.cdist(boxes, targets, p=1) - GIOU * giou(corners(boxes), corners(targets))[0]
    cost = cost.nan_to_num(1e6, 1e6, -1e6).T[:len(boxes)].double().cpu().numpy()
    return torch.from_numpy(cheapest(cost)).to(logits.device)


def quality_focal(logits, wanted):
    """Quality focal loss (Li et al., 2020, arXiv:2006.04388) of sigmoids towards scores from 0 to 1, summed."""
    return ((logits.sigmoid() - wanted) ** 2 * F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")).sum()


def box_loss(boxes, wanted, weights):
    overlap = giou(corners(boxes), corners(wanted))[0].diagonal()
    return (weights * (L1 * (boxes - wanted).abs().sum(-1) + GIOU * (1 - overlap))).sum()


def label_loss(layer, classes, targets, softmax):
    """The set loss (Carion et al., 2020) of what a layer says of a batch. Not yet divided by the number of objects."""
    total = 0
    for logits, boxes, classes, targets in zip(*(x.float() for x in layer), classes, targets):
        query = match(logits, boxes, classes, targets, softmax)
        classes, targets = classes[:len(query)], targets[:len(query)]
        if softmax:
            wanted = torch.full((len(logits),), logits.shape[1] - 1, device=logits.device)
            wanted[query] = classes
            weights = torch.full((len(logits),), NO_OBJECT, device=logits.device).index_fill(0, query, 1.0)
            # (Divided by the weights, as torch's weighted cross-entropy is; multiplied by the objects, by which all is divided later.)
            total += (F.cross_entropy(logits, wanted, reduction="none") * weights).sum() / weights.sum() * max(len(query), 1)
        else:
            # A score should tell how good its box is.
            wanted = torch.zeros_like(logits)
            wanted[query, classes] = giou(corners(boxes[query]), corners(targets))[1].diagonal().detach()
            total += quality_focal(logits, wanted)
        total += box_loss(boxes[query], targets, torch.ones(len(query), device=boxes.device))
    return total


def teacher_loss(layer, teacher, softmax, aligned):
    """A layer's loss towards a teacher's outputs (logits, boxes), and what to divide it by: the sum of the teacher's best scores."""
    total, share = 0, 0
    for logits, boxes, wanted, wanted_boxes in zip(*(x.float() for x in layer), *(x.float() for x in teacher)):
        best, classes = (wanted.softmax(-1)[:, :-1] if softmax else wanted.sigmoid()).max(-1)
        if not aligned:
            # The queries of which the teacher is surest, each to the student's that is nearest to it.
            surest = best.argsort(descending=True)[:len(logits)]
            wanted, wanted_boxes, best, classes = wanted[surest], wanted_boxes[surest], best[surest], classes[surest]
            query = match(logits, boxes, classes, wanted_boxes, softmax)
            logits, boxes = logits[query], boxes[query]
        if softmax:
            nothing = wanted.softmax(-1)[:, -1]
            divergence = F.kl_div(logits.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True).sum(-1)
            total += (divergence * (1 - nothing + NO_OBJECT * nothing)).sum()
        else:
            total += quality_focal(logits, wanted.sigmoid())
        total += box_loss(boxes, wanted_boxes, best)
        share += best.sum()
    return total, share


class Losses(nn.Module):
    """The network with its losses, so that DistributedDataParallel sees one module that gives one number."""

    def __init__(self, model, teacher, labelled, map_weight, auxiliary):
        super().__init__()
        self.model, self.labelled, self.map_weight, self.auxiliary = model, labelled, map_weight, auxiliary
        # In a list, which hides it from DistributedDataParallel and from the optimiser.
        self.teacher = [teacher]
        self.softmax = model.config.get("class_activation") == "softmax"
        self.adapters = nn.ModuleDict()

    def adapt(self, pixels, mask):
        """Makes a 1×1 convolution for each pair of feature maps of different widths. They are trained too, and aren't part of the model."""
        with torch.no_grad():
            student, teacher = self.model(pixels, mask).maps, self.teacher[0](pixels, mask).maps
        for i, (a, b) in enumerate(zip(student, teacher)):
            if a.shape[2:] == b.shape[2:] and a.shape[1] != b.shape[1]:
                self.adapters[str(i)] = nn.Conv2d(a.shape[1], b.shape[1], 1).to(pixels.device)

    def forward(self, pixels, mask, classes, targets, objects):
        """`objects`: how many the batches of all processes have, on average of a process."""
        teacher, chosen, parts = self.teacher[0], None, {}
        if teacher is not None:
            with torch.no_grad():
                wanted = teacher(pixels, mask)
            if wanted.chosen is not None:
                chosen = wanted.chosen[:, :self.model.config["queries"]]
        output = self.model(pixels, mask, chosen)
        if self.labelled:
            # The last decoder layer and the selected tokens count in full.
            shares = [self.auxiliary] * (len(output.layers) - 1) + [1.0]
            shares[0] = 1.0 if output.scores is not None else shares[0]
            layers = zip(output.layers, shares)
            parts["labels"] = sum(share * label_loss(layer, classes, targets, self.softmax) for layer, share in layers) / objects
        if teacher is not None:
            # With the teacher's tokens as queries, or with as many learnt ones, a query is the same as the teacher's.
            count = output.logits.shape[1]
            aligned = chosen is not None or count == wanted.logits.shape[1]
            pairs = list(zip(output.layers, wanted.layers)) if len(output.layers) == len(wanted.layers) else [(output.layers[-1], wanted.layers[-1])]
            total = 0
            for layer, by in pairs:
                by = [x[:, :count] for x in by] if aligned else by
                loss, share = teacher_loss(layer, by, self.softmax, aligned)
                total += loss / share.clamp(min=1)
            if chosen is not None:
                every = wanted.scores.float().sigmoid()
                total += quality_focal(output.scores.float(), every) / every.max(-1).values.sum().clamp(min=1)
            parts["teacher"] = total
            maps = []
            for i, (a, b) in enumerate(zip(output.maps, wanted.maps)):
                a = self.adapters[str(i)](a) if str(i) in self.adapters else a
                if a.shape == b.shape:
                    maps.append((a - b).float().square().mean() / b.float().square().mean().clamp(min=1e-6))
            parts["maps"] = self.map_weight * sum(maps) / max(len(maps), 1)
        return sum(parts.values()), {name: float(torch.as_tensor(value).detach()) for name, value in parts.items()}


# ------------------------------------------------------------------------------------------------------------------------------ the loop


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="the detrim file to train")
    parser.add_argument("--out", required=True, help="the detrim file to write")
    parser.add_argument("--images", required=True, help="folder of images")
    parser.add_argument("--labels", help="annotations in COCO's format")
    parser.add_argument("--teacher", help="a detrim file to learn from, of the same classes and input size: say, the model before it was pruned")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=8, help="images of a step and process")
    parser.add_argument("--rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--backbone-rate", type=float, default=0.1, help="the backbone's, as a part of --rate; 0 freezes it")
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--clip", type=float, default=0.1, help="largest norm of a gradient")
    parser.add_argument("--warmup", type=int, default=500, help="steps in which the rate rises")
    parser.add_argument("--map-weight", type=float, default=1.0, help="how much the teacher's feature maps count")
    parser.add_argument("--auxiliary", type=float, default=1.0, help="how much the labels' losses of the decoder layers before the last count")
    parser.add_argument("--no-flip", action="store_true", help="don't mirror images")
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16 where that is safe (GPUs)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read images, for each process")
    parser.add_argument("--every", type=int, default=50, help="steps between lines")
    parser.add_argument("--save", type=int, default=1000, help="steps between writes of --out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if not args.labels and not args.teacher:
        parser.error("nothing to learn from: give --labels, --teacher or both")
    return args


def main():
    args = arguments()
    # torchrun sets these; without it there is one process.
    rank, world, local = (int(os.environ.get(name, default)) for name, default in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    cuda = torch.cuda.is_available()
    device = torch.device(f"cuda:{local}" if cuda else "cpu")
    if cuda:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    random.seed(args.seed + rank)
    torch.manual_seed(args.seed)

    model = load(args.model).to(device).train()
    teacher = load(args.teacher).to(device).requires_grad_(False) if args.teacher else None
    if teacher is not None and [label["name"] for label in teacher.config["labels"]] != [label["name"] for label in model.config["labels"]]:
        raise SystemExit(f"{args.teacher}: the teacher has other classes than {args.model}")
    dataset = Images(model.config, args.images, args.labels, not args.no_flip)
    sampler = DistributedSampler(dataset, world, rank, seed=args.seed)
    loader = DataLoader(dataset, args.batch, sampler=sampler, num_workers=args.workers, collate_fn=collate,
                        worker_init_fn=lambda worker: random.seed(args.seed + 1000 * rank + worker))

    losses = Losses(model, teacher, args.labels is not None, args.map_weight, args.auxiliary)
    if teacher is not None:
        pixels, mask, *_ = collate([dataset[0]])
        losses.adapt(pixels.to(device), mask.to(device))
    if args.backbone_rate == 0:
        model.backbone.requires_grad_(False)
    backbone = [p for p in model.backbone.parameters() if p.requires_grad]
    rest = [p for name, p in losses.named_parameters() if not name.startswith("model.backbone.")]
    optimiser = torch.optim.AdamW([{"params": backbone, "lr": args.rate * args.backbone_rate}, {"params": rest, "lr": args.rate}],
                                  weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min((step + 1) / max(args.warmup, 1), 1.0) * (
        0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(step / args.steps, 1)))))
    # With labels every parameter has a loss, with a teacher that depends on it.
    run = losses
    if world > 1:
        run = nn.parallel.DistributedDataParallel(losses, [local] if cuda else None, find_unused_parameters=args.labels is None)
    if rank == 0:
        print(f"{len(dataset)} images, {world} processes on {device.type}, {sum(p.numel() for p in backbone + rest):,} parameters to train", flush=True)

    def write(step):
        source = args.labels or args.teacher
        sentence = f"trained in PyTorch for {step} steps of {world * args.batch} images, by {Path(source).name}"
        save(model, args.out, provenance=sentence)

    step, epoch, seen = 0, 0, []
    while step < args.steps:
        sampler.set_epoch(epoch)
        epoch += 1
        for pixels, mask, classes, targets in loader:
            pixels, mask = pixels.to(device), mask.to(device)
            classes, targets = [x.to(device) for x in classes], [x.to(device) for x in targets]
            objects = torch.tensor(float(sum(map(len, targets))), device=device)
            if world > 1:
                dist.all_reduce(objects)
            objects = (objects / world).clamp(min=1)
            with torch.autocast(device.type, torch.bfloat16) if args.bf16 else contextlib.nullcontext():
                loss, parts = run(pixels, mask, classes, targets, objects)
            if not loss.isfinite():
                raise SystemExit(f"step {step}: the loss isn't finite: training has diverged; lower --rate")
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(losses.parameters(), args.clip)
            optimiser.step()
            schedule.step()
            step += 1
            seen.append({"loss": loss.item(), **parts})
            if step % args.every == 0 or step == args.steps:
                mean = torch.tensor([sum(one[name] for one in seen) / len(seen) for name in seen[0]], device=device)
                if world > 1:
                    dist.all_reduce(mean)
                if rank == 0:
                    print(f"step {step}: " + ", ".join(f"{name} {value / world:.4f}" for name, value in zip(seen[0], mean.tolist())), flush=True)
                seen = []
            if rank == 0 and (step % args.save == 0 or step == args.steps):
                write(step)
            if step == args.steps:
                break
    if world > 1:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
