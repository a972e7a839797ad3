"""Makes tests/fixtures/original-family/NAME.pth: the models of tests/fixtures/family as the repositories that train such models save them.

    python tests/make_rt_detr_original_fixtures.py       # needs torch, safetensors and the fixtures of make_rt_detr_fixtures.py

The repositories (lyuwenyu/RT-DETR, Peterande/D-FINE, Intellindust-AI-Lab/DEIMv2) can't be installed as packages. The names below were taken from
their sources: PResNet and HGNetv2 in `nn/backbone`, `hybrid_encoder.py`, `lite_encoder.py`, `rtdetr_decoder.py`, `rtdetrv2_decoder.py`,
`dfine_decoder.py`, `deim_decoder.py`; the structure of the files from `solver/_solver.py` (`state_dict`) and `optim/ema.py`. Names of DEIMv2's were
checked against the initialisers of its deployed ONNX file: see `evidence` and `deimv2-names.txt`.

    python tests/make_rt_detr_original_fixtures.py --femto REFERENCE OUT.pth    # a real DEIMv2-Femto under transformers' names in a folder
    python tests/make_rt_detr_original_fixtures.py --evidence FILE.onnx REFERENCE     # its ONNX file (needs onnx): writes deimv2-names.txt
"""
import argparse
import re
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import load_file

FAMILY = Path(__file__).parent / "fixtures" / "family"
OUT = Path(__file__).parent / "fixtures" / "original-family"


def backbone(name):
    """PResNet or HGNetv2."""
    rest = re.sub(r"^(backbone|conv_encoder)\.model\.", "", name)
    if match := re.match(r"embedder\.embedder\.(\d)\.(convolution|normalization)\.(.*)", rest):
        kind = {"convolution": "conv", "normalization": "norm"}[match[2]]
        return f"backbone.conv1.conv1_{int(match[1]) + 1}.{kind}.{match[3]}"
    if match := re.match(r"encoder\.stages\.(\d+)\.layers\.(\d+)\.(layer\.\d|shortcut(?:\.1)?)\.(convolution|normalization)\.(.*)", rest):
        kind = {"convolution": "conv", "normalization": "norm"}[match[4]]
        # BasicBlock and BottleNeck; the strided shortcut is a Sequential of pool and conv.
        module = {"layer.0": "branch2a", "layer.1": "branch2b", "layer.2": "branch2c", "shortcut": "short", "shortcut.1": "short.conv"}[match[3]]
        return f"backbone.res_layers.{match[1]}.blocks.{match[2]}.{module}.{kind}.{match[5]}"
    rest = rest.replace("embedder.", "stem.").replace("encoder.stages.", "stages.")
    return "backbone." + rest.replace(".convolution.", ".conv.").replace(".normalization.", ".bn.")


def encoder(name, kind):
    name = name.replace("conv_encoder.encoder_input_proj.", "encoder.input_proj.").replace("encoder_input_proj.", "encoder.input_proj.")
    name = name.replace("encoder.aifi.", "encoder.encoder.")
    if match := re.match(r"(encoder\.encoder\.\d+\.layers\.\d+)\.(.*)", name):
        inner = {
            "self_attn_layer_norm": "norm1", "final_layer_norm": "norm2", "fc1": "linear1", "fc2": "linear2",
            "mlp.layers.0": "linear1", "mlp.layers.1": "linear2", "mlp.fc1": "linear1", "mlp.fc2": "linear2",
        }
        module, part = match[2].rsplit(".", 1)
        return f"{match[1]}.{inner.get(module, module.replace('o_proj', 'out_proj'))}.{part}"
    if "input_proj" in name:
        # rtdetr_pytorch has a plain Sequential, the others one with names.
        pairs = {".conv.": ".0.", ".norm.": ".1."} if kind == "rt_detr" else {".0.weight": ".conv.weight", ".1.": ".norm."}
        head, index, rest = re.match(r"(encoder\.input_proj)\.(\d+)\.(.*)", name).groups()
        rest = "." + rest
        for old, new in pairs.items():
            rest = rest.replace(old, new, 1) if rest.startswith(old) else rest
        return f"{head}.{index}{rest}"
    name = name.replace("encoder.bi_fusion_conv.", "encoder.bi_fusion.cv.")
    name = re.sub(r"encoder\.down_conv(\d)\.conv\.", r"encoder.down_sample\1.1.", name)
    name = re.sub(r"encoder\.down_conv(\d)\.norm\.", r"encoder.down_sample\1.2.", name)
    if kind in ("rt_detr", "rt_detr_v2"):
        return name
    # SCDown in a Sequential, RepNCSPELAN4.
    name = re.sub(r"(downsample_convs\.\d+)\.conv(\d)\.", r"\1.0.cv\2.", name)
    if match := re.match(r"(encoder\.(?:fpn|pan)_blocks?(?:\.\d+)?)\.(.*)", name):
        block, rest = match.groups()
        if kind == "d_fine":
            steps = {"conv1.": "cv1.", "csp_rep1.": "cv2.0.", "conv2.": "cv2.1.", "csp_rep2.": "cv3.0.", "conv3.": "cv3.1.", "conv4.": "cv4."}
        else:
            steps = {
                "conv1.": "cv1.", "csp_rep1.conv2.": "cv2.1.", "csp_rep1.": "cv2.0.", "csp_rep2.conv2.": "cv3.1.", "csp_rep2.": "cv3.0.",
                "conv2.": "cv4.",
            }
        old = next(old for old in steps if rest.startswith(old))
        return f"{block}.{steps[old]}{rest[len(old):]}"
    return name


def decoder(name, kind):
    if match := re.match(r"decoder\.layers\.(\d+)\.(.*)\.([^.]+)$", name):
        layer, module, part = match.groups()
        inner = {
            "self_attn_layer_norm": "norm1", "encoder_attn_layer_norm": "norm2", "final_layer_norm": "norm3", "fc1": "linear1", "fc2": "linear2",
            "mlp.layers.0": "linear1", "mlp.layers.1": "linear2", "mlp.fc1": "linear1", "mlp.fc2": "linear2", "mlp.down_proj": "swish_ffn.w3",
        }
        module = inner.get(module, module.replace("encoder_attn", "cross_attn").replace("o_proj", "out_proj"))
        if module == "self_attn.output_proj":
            module = "self_attn.out_proj"
        part = {"n_points_scale": "num_points_scale"}.get(part, part)
        if kind == "deimv2" and module in ("norm1", "norm2", "norm3", "gateway.norm"):
            part = {"weight": "scale"}[part]
        return f"decoder.decoder.layers.{layer}.{module}.{part}"
    for old, new in {
        "decoder.class_embed.": "decoder.dec_score_head.", "decoder.bbox_embed.": "decoder.dec_bbox_head.",
        "decoder.lqe_layers.": "decoder.decoder.lqe_layers.", "weight_embedding.": "decoder.tgt_embed.",
    }.items():
        if name.startswith(old):
            return new + name[len(old):]
    if match := re.match(r"decoder_input_proj\.(\d+)\.(0|1|conv|norm)\.(.*)", name):
        return f"decoder.input_proj.{match[1]}.{ {'0': 'conv', '1': 'norm'}.get(match[2], match[2])}.{match[3]}"
    if name.startswith("enc_output.") and kind != "rt_detr":
        name = name.replace("enc_output.0.", "enc_output.proj.").replace("enc_output.1.", "enc_output.norm.")
    return name if name.startswith("decoder.") else f"decoder.{name}"


def anchors(size, strides):
    """`_generate_anchors`."""
    found = []
    for level, stride in enumerate(strides):
        h, w = size[0] // stride, size[1] // stride
        y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        xy = (torch.stack([x, y], -1) + 0.5) / torch.tensor([w, h])
        found.append(torch.cat([xy, torch.full_like(xy, 0.05 * 2.0**level)], -1).reshape(1, -1, 4))
    found = torch.cat(found, 1)
    valid = ((found > 0.01) & (found < 0.99)).all(-1, keepdim=True)
    return torch.where(valid, torch.log(found / (1 - found)), torch.inf), valid


def original(tensors, kind, size, strides):
    """The state dict of a repository's model."""
    state, parts = OrderedDict(), {}
    for name, tensor in tensors.items():
        name = name.removeprefix("model.")
        if name.startswith(("class_embed", "bbox_embed")) or kind == "deimv2" and name.startswith("enc_output"):
            continue
        # nn.MultiheadAttention keeps three maps in one, SwiGLUFFN two.
        if match := re.match(r"(.*self_attn)\.([qkv])_proj\.(weight|bias)$", name):
            side = encoder if name.startswith("encoder") else decoder
            whole = side(f"{match[1]}.in_proj.{match[3]}", kind).replace(".in_proj.", ".in_proj_")
            parts.setdefault(whole, {})["qkv".index(match[2])] = tensor
        elif match := re.match(r"decoder\.layers\.(\d+)\.mlp\.(gate|up)_proj\.(weight|bias)$", name):
            whole = f"decoder.decoder.layers.{match[1]}.swish_ffn.w12.{match[3]}"
            parts.setdefault(whole, {})[["gate", "up"].index(match[2])] = tensor
        elif re.match(r"(backbone|conv_encoder)\.model\.", name):
            state[backbone(name)] = tensor
        elif re.match(r"(encoder\.|encoder_input_proj|conv_encoder\.encoder_input_proj)", name):
            state[encoder(name, kind)] = tensor
        else:
            state[decoder(name, kind)] = tensor
    for whole, pieces in parts.items():
        state[whole] = torch.cat([pieces[i] for i in range(len(pieces))])
    if kind != "rt_detr":
        state["decoder.anchors"], state["decoder.valid_mask"] = anchors(size, strides)
    return state


CASES = {
    # name: the model in fixtures/family, its kind, strides, and where the solver puts the state dict
    "rt_detr": ("rt_detr-levels", "rt_detr", [8, 16, 32, 64], "ema"),
    "rt_detr_v2": ("rt_detr_v2", "rt_detr_v2", [8, 16, 32], "ema"),
    "d_fine": ("d_fine", "d_fine", [8, 16, 32], "model"),
    "deimv2-hybrid": ("deimv2-hybrid", "deimv2", [16, 32], "model"),
    "deimv2-lite": ("deimv2-lite-as-trained", "deimv2", [16, 32], "ema"),
}


def saved(state, place):
    if place == "ema":
        return {"date": "2025-01-01T00:00:00", "last_epoch": 71, "ema": {"module": state, "updates": 7}}
    return {"model": state}


def evidence(onnx_file, reference):
    """Writes the initialisers of a deployed DEIMv2-Femto that kept their names, having checked that the mapping above leads to the same
    numbers in the reference (which lies under transformers' names)."""
    import onnx
    from onnx import numpy_helper

    state = original(load_file(reference / "model.safetensors"), "deimv2", (416, 416), [16, 32])
    lines, different = [], 0.0
    for tensor in onnx.load(onnx_file).graph.initializer:
        name = tensor.name.removeprefix("model.")
        if tensor.name.startswith(("onnx::", "/", "_")) or "conv_bn_fused" in name or ".bottlenecks." in name:
            continue
        values = torch.from_numpy(numpy_helper.to_array(tensor).copy()).float()
        assert name in state, name
        different = max(different, (values.reshape(-1) - state[name].float().reshape(-1)).abs().max().item())
        lines.append(f"{name} {list(values.shape)}")
    assert different < 1e-6, different
    (OUT / "deimv2-names.txt").write_text("\n".join(lines) + "\n")
    print(len(lines), "initialisers are where the mapping puts them; largest difference", different)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--femto", nargs=2, type=Path)
    parser.add_argument("--evidence", nargs=2, type=Path)
    arguments = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if arguments.evidence:
        return evidence(*arguments.evidence)
    if arguments.femto:
        reference, out = arguments.femto
        return torch.save(saved(original(load_file(reference / "model.safetensors"), "deimv2", (416, 416), [16, 32]), "model"), out)
    for name, (family, kind, strides, place) in CASES.items():
        state = original(load_file(FAMILY / family / "model.safetensors"), kind, (64, 96), strides)
        torch.save(saved(state, place), OUT / f"{name}.pth")
        print(name, len(state), "tensors", (OUT / f"{name}.pth").stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
