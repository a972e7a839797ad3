"""Makes tests/fixtures/pth: the same few tensors in files of every kind that torch.save has written.

    python tests/make_pth_fixtures.py       # torch 2.15 made these
"""

import argparse
import pathlib
from collections import OrderedDict

import torch

out = pathlib.Path(__file__).parent / "fixtures" / "pth"
out.mkdir(parents=True, exist_ok=True)

numbers = torch.arange(24, dtype=torch.float32)
state = OrderedDict(
    plain=numbers[:6].reshape(2, 3) / 2,
    half=(numbers[:6] / 4).half(),
    brain=(numbers[:6] - 2.5).bfloat16(),
    double=(numbers[:4] / 3).double(),
    count=torch.tensor(7),
    transposed=numbers.reshape(2, 3, 4).permute(2, 0, 1),
    view=numbers[10:22].reshape(3, 4)[:, 1:3],
    scalar=torch.tensor(0.5),
    empty=torch.zeros(0, 3),
    parameter=torch.nn.Parameter(numbers[:3] + 0.25),
)
state._metadata = OrderedDict({"": {"version": 1}})
training = {
    "epoch": 299,
    "args": argparse.Namespace(lr=1e-4, backbone="resnet50", masks=False, device="cuda"),
    "optimizer": {"state": {0: {"step": 5, "exp_avg": numbers}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
    "model": state,
}
for name, content in {"state": state, "training": training}.items():
    torch.save(content, out / f"{name}_zip.pth")
    torch.save(content, out / f"{name}_legacy.pth", _use_new_zipfile_serialization=False)
torch.save(training, out / "protocol4_zip.pth", pickle_protocol=4)
torch.save(training, out / "protocol5_legacy.pth", pickle_protocol=5, _use_new_zipfile_serialization=False)
