"""Makes tests/fixtures/dilated: a tiny DETR on timm's basic blocks with a dilated last stage, and what its backbone gives.

    python tests/make_dilated_fixture.py       # torch 2.15 and timm 1.0.31 made these
"""

import json
import pathlib

import torch
from safetensors.torch import save_file
from timm.models.resnet import BasicBlock, ResNet

torch.manual_seed(0)
out = pathlib.Path(__file__).parent / "fixtures" / "dilated"
out.mkdir(parents=True, exist_ok=True)

net = ResNet(BasicBlock, layers=(1, 1, 1, 2), channels=(4, 4, 8, 8), output_stride=16, num_classes=0, global_pool="").eval()
with torch.no_grad():
    for name, buffer in net.named_buffers():
        if "running_mean" in name:
            buffer.copy_(torch.randn_like(buffer) * 0.1)
        if "running_var" in name:
            buffer.copy_(torch.rand_like(buffer) + 0.5)
tensors = {f"model.backbone.conv_encoder.model.{name}": tensor for name, tensor in net.state_dict().items()}


def linear(name, *shape):
    tensors[f"{name}.weight"], tensors[f"{name}.bias"] = torch.randn(shape), torch.randn(shape[0])


linear("model.input_projection", 8, 8, 1, 1)
linear("model.decoder.layernorm", 8)
linear("class_labels_classifier", 4, 8)
for i, rows in enumerate((8, 8, 4)):
    linear(f"bbox_predictor.layers.{i}", rows, 8)
tensors["model.query_position_embeddings.weight"] = torch.randn(3, 8)
save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, out / "model.safetensors")
json.dump({"model_type": "detr", "dilation": True, "encoder_layers": 0, "decoder_layers": 0, "d_model": 8}, (out / "config.json").open("w"))

pixels = torch.randn(1, 3, 48, 64)
with torch.no_grad():
    features = net.forward_features(pixels)
channels_last = {"pixels": pixels.permute(0, 2, 3, 1), "features": features.permute(0, 2, 3, 1)}
save_file({name: tensor.contiguous() for name, tensor in channels_last.items()}, out / "case.safetensors")
print({name: tuple(tensor.shape) for name, tensor in channels_last.items()})
