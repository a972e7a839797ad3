"""The training steps of training_family.rs in PyTorch, for a checkpoint of DEIMv2 as Hugging Face keeps it: images a second at 416×416, batch 8.

    pip install torch transformers==5.24 scipy
    python training_family.py FOLDER [seconds]

`features`: the relative squared error of the encoder's maps against a frozen copy. `labels`: transformers' own training step, denoising
included. Images are in memory; batch norms are frozen.
"""
import sys, time
import torch
from torch import nn
from transformers import Deimv2ForObjectDetection

SIDE, BATCH, TARGETS = 416, 8, 7

folder, seconds = sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 20
torch.manual_seed(1)
pixels = torch.rand(BATCH, 3, SIDE, SIDE)
student, teacher = (Deimv2ForObjectDetection.from_pretrained(folder) for _ in range(2))
teacher.eval()
student.train()
for module in student.modules():
    if isinstance(module, nn.BatchNorm2d):
        module.eval()
optimiser = torch.optim.AdamW(student.parameters(), lr=1e-6)
box = lambda: torch.cat([0.3 + 0.4 * torch.rand(TARGETS, 2), 0.1 + 0.4 * torch.rand(TARGETS, 2)], 1)
labels = [{"class_labels": torch.randint(80, (TARGETS,)), "boxes": box()} for _ in range(BATCH)]


def maps(model):
    core = model.model
    return core.encoder(core.conv_encoder(pixels)).feature_maps


def features():
    with torch.no_grad():
        targets = maps(teacher)
    return sum(((x - y) ** 2).sum() / (y ** 2).sum() for x, y in zip(maps(student), targets))


def supervised():
    return student(pixels, labels=labels).loss


for name, loss in (("features", features), ("labels", supervised)):
    def step():
        optimiser.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(student.parameters(), .1)
        optimiser.step()

    step()
    begun, steps = time.time(), 0
    while time.time() - begun < seconds:
        step()
        steps += 1
    print(f"{name}: {steps * BATCH / (time.time() - begun):.2f} images/s")
