"""Makes tests/fixtures: tiny DETRs that nobody trained, and what PyTorch computes with them at every stage.

    pip install torch==2.15 timm==1.0.31 transformers==5.23 safetensors==0.8 numpy    # made the files in the repository
    python tests/make_fixtures.py [NAME...]

Each folder holds a checkpoint, its config.json if it has one, and cases `*.safetensors`: pixel_values, pixel_mask and the
expected stages. The weights are spread so that every query says something else (asserted below), since default
initialisation makes all queries alike and hides mistakes.
"""
import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
import torch
from safetensors.torch import load_file, save_file
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from fixture_models import OriginalDetr, ResNetBody, TrimmedDetr, add_content_and_reference, hf_detr, lite0_body, run_hf

OUT = Path(__file__).parent / "fixtures"
HEADS = ("class_labels_classifier", "class_embed", "class_head")
BOXES = ("bbox_predictor", "bbox_embed", "box_head")
PROJECTIONS = ("input_projection", "input_proj")


def picture(height, width, seed):
    """Coloured rectangles on a ramp with some noise, roughly normalised [3, h, w]; short in bits, so that git packs it well."""
    g = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(-1, 1, height).view(-1, 1), torch.linspace(-1, 1, width).view(1, -1)
    image = torch.stack([x + 0 * y, y + 0 * x, -(x + y) / 2])
    for _ in range(10):
        r = torch.rand(4, generator=g)
        top, left = int(r[0] * height * .8), int(r[1] * width * .8)
        bottom, right = top + 4 + int(r[2] * height * .4), left + 4 + int(r[3] * width * .4)
        image[:, top:bottom, left:right] = torch.rand(3, 1, 1, generator=g) * 4 - 2
    return ((image + torch.randn(3, height, width, generator=g) * .2) * 16).round() / 16


def batch(sizes, height, width, seed=0):
    """Pictures of these sizes, padded with zeros to height by width, and their mask."""
    pixels, mask = torch.zeros(len(sizes), 3, height, width), torch.zeros(len(sizes), height, width, dtype=torch.long)
    for i, (h, w) in enumerate(sizes):
        pixels[i, :, :h, :w], mask[i, :h, :w] = picture(h, w, seed + i), 1
    return pixels, mask


@torch.no_grad()
def spread(model, run, dtype, seed, gain=1):
    """Gives every tensor values that matter, then rounds them to `dtype`. `gain` is for the heads: it widens float32's error too."""
    model.eval()
    g = torch.Generator().manual_seed(seed)
    normal = lambda t, s: torch.randn(t.shape, generator=g) * s
    uniform = lambda t, a, b: torch.rand(t.shape, generator=g) * (b - a) + a
    for name, p in model.named_parameters():
        if p.dim() == 4:
            p.copy_(normal(p, (2 / p[0].numel()) ** .5))
        elif p.dim() == 2:
            a = (6 / sum(p.shape)) ** .5
            p.copy_(normal(p, 1.0) if any(w in name for w in ("query", "reference")) and "attention" not in name else uniform(p, -a, a))
            if name.endswith("in_proj_weight"):
                p[:2 * len(p) // 3] *= 1.5
            for words, factor in ((HEADS, 2 * gain), (("query_content",), .5), (BOXES, 1.5 * gain), (("q_proj", "k_proj", "attention.query", "attention.key"), 1.5),
                                  (("fc2", "linear2", "ffn2"), .3), (("encoder_attn.o", "multihead_attn.out", "cross_attention.out"), 2)):
                if any(w in name for w in words):
                    p *= factor
        else:
            p.copy_(normal(p, .1) + (1 if name.endswith("weight") else 0))
    norms = [m for m in model.modules() if hasattr(m, "running_mean")]

    def measure(norm, args):
        mean, var = args[0].mean((0, 2, 3)), args[0].var((0, 2, 3))
        norm.running_mean.copy_(mean + normal(mean, .1) * var.sqrt())
        norm.running_var.copy_(var * uniform(var, .7, 1.4) + 1e-3)
    for norm in norms:
        norm.weight.copy_(uniform(norm.weight, .5, 1.5))
        norm.bias.copy_(normal(norm.bias, .2))
    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    pixels, mask = batch([(256, 320)], 256, 320, seed=70)
    run(model, pixels, mask)
    for hook in hooks:
        hook.remove()
    projection = next(m for n, m in model.named_modules() if n.split(".")[-1] in PROJECTIONS)
    head = next(m for n, m in model.named_modules() if n in HEADS)
    projected = run(model, pixels, mask)["projected"]
    scale = projected.std((0, 2, 3))
    projection.weight.div_(scale.view(-1, 1, 1, 1))
    projection.bias.copy_((projection.bias - projected.mean((0, 2, 3))) / scale + normal(scale, .1))
    head.bias.sub_(run(model, pixels, mask)["logits"].mean((0, 1)))
    for t in [*model.parameters(), *model.buffers()]:
        if t.is_floating_point():
            t.copy_(t.to(dtype).float())


@torch.no_grad()
def case(folder, name, model, run, pixels, mask, mask_type=torch.uint8):
    """Writes one case, after making sure that it can tell a right network from a wrong one."""
    seen = run(model, pixels, mask)
    exact = run(model.double(), pixels.double(), mask)
    model.float()
    # float32's own error as a part of what the parity tests allow.
    allowed = {k: {"logits": 5e-3, "pred_boxes": 1e-4}.get(k, 1e-3 * float(v.abs().max())) for k, v in exact.items()}
    error = max(float((seen[k] - exact[k]).abs().max()) / allowed[k] for k in seen)
    logits, boxes = seen["logits"], seen["pred_boxes"]
    says = {"logits": logits.std(1).mean(), "boxes": boxes.std(1).mean(),
            "pictures": (logits - run(model, pixels.flip(-1), mask)["logits"]).abs().max()}
    if not bool(mask.all()):
        says["mask"] = (logits - run(model, pixels, torch.ones_like(mask))["logits"]).abs().max()
    least = dict(logits=.4, boxes=.04, pictures=.3, mask=.1)
    assert all(v > least[k] for k, v in says.items()) and error < .2, (says, error)
    tensors = {"pixel_values": pixels, **seen}
    if not bool(mask.all()):
        tensors["pixel_mask"] = mask.to(mask_type)
    save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, OUT / folder / f"{name}.safetensors")
    print(f"{folder}/{name}: float32 against float64 {error:.3f} of the tolerance,", {k: round(float(v), 2) for k, v in says.items()})


def plain(folder, model, run, height, width):
    case(folder, "plain", model, run, *batch([(height, width)], height, width, seed=1))


def masked(folder, model, run, mask_type):
    case(folder, "masked", model, run, *batch([(38, 81), (67, 46)], 67, 81, seed=2), mask_type)


def save_hf(folder, model, dtype):
    """As transformers saves it, hence under the hub's names, but in `dtype`."""
    path = OUT / folder / "model.safetensors"
    model.save_pretrained(path.parent)
    rounded = {k: v.to(dtype) if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(rounded, path, metadata={"format": "pt"})


def basic():
    model = hf_detr(ResNetBody(BasicBlock, (8, 12, 16, 28), (2, 2, 2, 2), stem=8), d_model=32, encoder_layers=2, decoder_layers=2,
                    encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, num_queries=10)
    spread(model, run_hf, torch.float16, 1)
    save_hf("basic", model, torch.float16)
    plain("basic", model, run_hf, 75, 101)
    masked("basic", model, run_hf, torch.int16)


def bottleneck_dc5():
    model = hf_detr(ResNetBody(Bottleneck, (4, 4, 6, 8), (3, 4, 6, 3), stem=12, output_stride=16), backbone="resnet50", dilation=True, activation_function="silu",
                    d_model=24, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=3,
                    encoder_ffn_dim=40, decoder_ffn_dim=36, num_queries=9)
    spread(model, run_hf, torch.float16, 6, gain=.8)
    save_hf("bottleneck-dc5", model, torch.float16)
    plain("bottleneck-dc5", model, run_hf, 70, 99)
    masked("bottleneck-dc5", model, run_hf, torch.bool)


def native():
    net = dict(embedding_size=8, hidden_sizes=[16, 24, 32, 48], depths=[1, 2, 2, 1], layer_type="bottleneck")
    model = hf_detr(native=net, activation_function="gelu", d_model=32, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
                    decoder_attention_heads=2, encoder_ffn_dim=40, decoder_ffn_dim=56, num_queries=12)
    spread(model, run_hf, torch.bfloat16, 3)
    save_hf("native", model, torch.bfloat16)
    plain("native", model, run_hf, 96, 65)
    masked("native", model, run_hf, torch.float16)


def native_basic():
    net = dict(embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1], layer_type="basic")
    model = hf_detr(native=net, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                    decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, num_queries=7)
    spread(model, run_hf, torch.float16, 4)
    save_hf("native-basic", model, torch.float16)
    plain("native-basic", model, run_hf, 66, 66)


def original(folder, model, dtype, seed, legacy, extra):
    """As the original repository saves: {"model": …} and what else training leaves; no config beside it."""
    run = lambda m, pixels, mask: m(pixels, mask)
    spread(model, run, dtype, seed)
    (OUT / folder).mkdir(parents=True, exist_ok=True)
    state = {k: v.to(dtype) for k, v in model.state_dict().items()}
    torch.save({"model": state, **extra}, OUT / folder / "model.pth", _use_new_zipfile_serialization=not legacy)
    plain(folder, model, run, 75, 90)
    if not legacy:
        masked(folder, model, run, torch.bool)


def original_zip():
    body = ResNetBody(BasicBlock, (8, 10, 12, 20), (1, 2, 1, 1), stem=8)
    model = OriginalDetr(body, d_model=32, heads=4, ffn=44, encoder=2, decoder=2, queries=11, classes=12)
    args = argparse.Namespace(lr=1e-4, backbone="resnet18", dilation=False, nheads=4, hidden_dim=32, device="cpu", frozen_weights=None)
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
    original("original-zip", model, torch.float16, 5, False, {"optimizer": optimizer, "epoch": 3, "args": args})


def original_legacy():
    body = ResNetBody(Bottleneck, (4, 4, 6, 8), (1, 1, 1, 2), stem=8, output_stride=16)
    model = OriginalDetr(body, d_model=24, heads=3, ffn=32, encoder=1, decoder=2, queries=8, classes=12)
    args = argparse.Namespace(backbone="resnet50", dilation=True, nheads=3)
    original("original-legacy", model, torch.float32, 6, True, {"args": args})


def lite0():
    model = hf_detr(lite0_body(.14), d_model=32, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4,
                    encoder_ffn_dim=64, decoder_ffn_dim=64, num_queries=10)
    model.class_labels_classifier = nn.Linear(32, 11)  # no logit for no-object
    add_content_and_reference(model)
    spread(model, run_hf, torch.float16, 7)
    save_hf("lite0", model, torch.float16)
    config = {k: getattr(model.config, k) for k in (
        "model_type d_model encoder_layers decoder_layers encoder_attention_heads decoder_attention_heads encoder_ffn_dim "
        "decoder_ffn_dim num_queries activation_function position_embedding_type").split()}
    config |= {"backbone": "tf_efficientnet_lite0", "use_timm_backbone": True, "class_activation": "sigmoid", "num_labels": 11,
               "id2label": {str(i): f"kind {i}" for i in range(11)},
               "pixels": {"resize": "stretch", "size": [75, 101], "filter": "bilinear antialiased", "mean": [.5] * 3, "std": [.5] * 3}}
    (OUT / "lite0/config.json").write_text(json.dumps(config, indent=1))
    plain("lite0", model, run_hf, 75, 101)
    case("lite0", "even", model, run_hf, *batch([(96, 64)], 96, 64, seed=3))


def trimmed():
    block = lambda inner, stride=1, dilation=1, projection=False: dict(inner=inner, stride=stride, dilation=dilation, projection=projection)
    attention = lambda heads, width: {"heads": heads, "head_width": width}
    stages = [(14, [block([9], projection=True), block([5, 7])]), (22, [block([11, 6], 2, projection=True), block([13])]),
              (27, [block([10], 2, projection=True)]), (36, [block([8, 12], 2, projection=True), block([7, 9], dilation=2)])]
    config = {
        "backbone": {"kind": "resnet", "stem": 10, "stages": [{"channels": c, "blocks": b} for c, b in stages]}, "d_model": 36,
        "encoder": [{"self_attention": attention(3, 8), "ffn": 50}, {"self_attention": attention(1, 12), "ffn": 7}],
        "decoder": [{"self_attention": attention(2, 5), "cross_attention": attention(7, 8), "ffn": 33},
                    {"self_attention": attention(5, 8), "cross_attention": attention(3, 6), "ffn": 64},
                    {"self_attention": attention(1, 3), "cross_attention": attention(1, 40), "ffn": 18}],
        "queries": 13, "classes": 8, "activation": "relu", "class_activation": "softmax",
        "labels": [{"id": i + 1, "name": f"kind {i}"} for i in range(7)],
        "pixels": {"mean": [.485, .456, .406], "std": [.229, .224, .225], "resize": {"rule": "shortest-side", "short": 75, "long": 120}}}
    model, run = TrimmedDetr(config), lambda m, pixels, mask: m(pixels, mask)
    spread(model, run, torch.float16, 7)
    tensors = {k: v.half() for k, v in model.state_dict().items()}
    tensors = {k: v.permute(0, 2, 3, 1).contiguous() if v.dim() == 4 else v for k, v in tensors.items()}
    tensors["input_projection.weight"] = tensors["input_projection.weight"].flatten(1)
    (OUT / "trimmed").mkdir(parents=True, exist_ok=True)
    save_file(tensors, OUT / "trimmed/model.safetensors", metadata={"detrim": json.dumps({"version": 1, "config": config, "card": {"name": "trimmed"}})})
    plain("trimmed", model, run, 75, 101)
    masked("trimmed", model, run, torch.uint8)


if __name__ == "__main__":
    torch.set_num_threads(1)
    makers = [basic, bottleneck_dc5, native, native_basic, original_zip, original_legacy, lite0, trimmed]
    for make in makers:
        if not sys.argv[1:] or make.__name__ in sys.argv[1:]:
            torch.manual_seed(0)
            make()
