"""Makes tests/fixtures/family-training/NAME: losses of small random detectors of RT-DETR's family by transformers, with the gradient of every
parameter, in double precision.

    pip install torch transformers==5.24 safetensors scipy
    python tests/make_rt_detr_training.py

`gradients.safetensors` has the model's names, so that what reads a model reads the gradients too. For that, batch norms are the identity (a
folded bias then has the gradient of the norm's), and what is folded into a sum (RepVGG's 1×1 branch, the quality head's column for the mean)
is zero there. What transformers does otherwise than the repositories that trained the models is undone:

* D-FINE's and DEIMv2's first boxes are a layer of their own, with denoising queries too; 5.24 pairs each layer's classes and boxes with the next
  layer's distributions. Its decoupled distillation between layers (`loss_ddf`) is left out, and every layer is matched for itself.
"""
import json
from pathlib import Path

import numpy as np
import torch
from make_rt_detr_fixtures import as_trained, shake
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Deimv2Config, Deimv2ForObjectDetection, DFineConfig, DFineForObjectDetection, HGNetV2Config, RTDetrConfig, RTDetrForObjectDetection,
    RTDetrImageProcessor, RTDetrResNetConfig,
)
from transformers.loss.loss_d_fine import DFineLoss
from transformers.loss.loss_deimv2 import Deimv2Loss
from transformers.loss.loss_rt_detr import RTDetrLoss

OUT = Path(__file__).parent / "fixtures" / "family-training"
NAMES = {0: "person", 1: "bicycle", 2: "car"}
SIDE, BATCH = 64, 2
TARGETS = [
    [(0, [0.30, 0.40, 0.35, 0.50]), (2, [0.70, 0.55, 0.40, 0.30])],
    [(1, [0.55, 0.45, 0.60, 0.70]), (1, [0.25, 0.70, 0.25, 0.35])],
]

common = dict(
    encoder_attention_heads=2, encoder_ffn_dim=12, decoder_attention_heads=2, decoder_ffn_dim=12, d_model=8, num_queries=7, decoder_layers=2,
    id2label=NAMES, label2id={name: i for i, name in NAMES.items()}, num_denoising=4, freeze_backbone_batch_norms=False)
three = dict(encoder_in_channels=[8, 8, 8], encoder_hidden_dim=8, decoder_in_channels=[8, 8, 8], feat_strides=[8, 16, 32])


def hgnet(outputs):
    return HGNetV2Config(
        hidden_sizes=[8] * 4, depths=[1] * 4, stem_channels=[3, 4, 6], stage_in_channels=[6, 8, 8, 8], stage_mid_channels=[4] * 4,
        stage_out_channels=[8] * 4, stage_num_blocks=[1, 2, 1, 1], stage_downsample=[False, True, True, True], stage_downsample_strides=[2] * 4,
        stage_light_block=[False, False, True, True], stage_kernel_size=[3, 3, 5, 5], stage_numb_of_layers=[2, 1, 2, 1],
        use_learnable_affine_block=True, out_indices=outputs)


def cases():
    resnet = RTDetrResNetConfig(embedding_size=6, hidden_sizes=[6, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4])
    # Seeds of which every loss has something to say.
    yield 101, "rt_detr", RTDetrForObjectDetection, RTDetrConfig(backbone_config=resnet, hidden_expansion=0.5, **common, **three), RTDetrLoss
    yield 100, "d_fine", DFineForObjectDetection, DFineConfig(
        backbone_config=hgnet([2, 3, 4]), decoder_n_points=[2, 1, 2], hidden_expansion=0.5, depth_mult=0.34, max_num_bins=8, lqe_hidden_dim=6,
        **common, **three), DFineLoss
    yield 101, "deimv2", Deimv2ForObjectDetection, Deimv2Config(
        encoder_hidden_dim=8, backbone_config=hgnet([3]), encoder_type="lite", encoder_layers=0, encoder_in_channels=[8], decoder_in_channels=[8, 8],
        feat_strides=[16], num_feature_levels=2, decoder_n_points=[2, 1], depth_mult=0.5, hidden_expansion=0.67, max_num_bins=8, lqe_hidden_dim=6,
        share_bbox_head=True, use_gateway=False, decoder_activation_function="silu", focal_loss_gamma=1.5, **common), Deimv2Loss


def pixels():
    """The same as the test computes: a mixed-up counter."""
    count = np.arange(BATCH * SIDE * SIDE * 3, dtype=np.uint64)
    values = ((count * 2654435761 + 12345) % 2**32 >> 8).astype(np.float64) / 2**24
    return torch.tensor(values).reshape(BATCH, SIDE, SIDE, 3).permute(0, 3, 1, 2).contiguous()


def plain_norms(model):
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.data.fill_(1.0)
            module.running_mean.zero_()
            module.running_var.fill_(1.0 - module.eps)
            module.eval()


def denoising(model, asked):
    """Writes down what the model's denoising group holds."""
    module = __import__(type(model).__module__, fromlist=["x"])
    group = module.get_contrastive_denoising_training_group

    def noting(targets, class_embed, **options):
        def embed(classes):
            asked["classes"] = classes
            return class_embed(classes)

        # The functions of the architectures name their arguments alike.
        found = group(targets=targets, class_embed=embed, **options)
        asked["boxes"], asked["meta"] = found[1].sigmoid(), found[3]
        return found

    module.get_contrastive_denoising_training_group = noting
    return lambda: setattr(module, "get_contrastive_denoising_training_group", group)


def losses(model, kind, config, labels, output):
    criterion = kind(config).double()
    distributions = output.get("intermediate_predicted_corners") is not None
    bounded = (lambda boxes: boxes.clamp(0, 1)) if distributions else (lambda boxes: boxes)
    logits, boxes = output.intermediate_logits, bounded(output.intermediate_reference_points)
    layers, first = [], None
    start = 1 if distributions else 0
    if distributions:
        first = {"logits": logits[:, 0], "pred_boxes": boxes[:, 0]}
    for i in range(config.decoder_layers):
        layer = {"logits": logits[:, start + i], "pred_boxes": boxes[:, start + i]}
        if distributions:
            corners = output.intermediate_predicted_corners[:, i]
            layer |= {"pred_corners": corners, "ref_points": output.initial_reference_points[:, i], "teacher_corners": corners}
        layers.append(layer)
    asked, own = output.denoising_meta_values["dn_num_split"]
    part = lambda layer, where: {name: tensor[:, where] for name, tensor in layer.items()}
    number = sum(len(label["class_labels"]) for label in labels)

    def all_of(layer, indices, count):
        """Each loss weighted."""
        sums = {}
        for loss in criterion.losses:
            if loss == "local" and "pred_corners" not in layer:
                continue
            for name, value in criterion.get_loss(loss, layer, labels, indices, count).items():
                if name != "loss_ddf":
                    sums[name] = value * criterion.weight_dict[name]
        return sums

    found, total = {}, 0
    every = ([first] if first else []) + layers
    for layer in every:
        mine = part(layer, slice(asked, None))
        sums = all_of(mine, criterion.matcher(mine, labels), number)
        total = total + sum(sums.values())
        if layer is layers[-1]:
            found["last"] = [value.item() for value in sums.values()]
    indices = criterion.get_cdn_matched_indices(output.denoising_meta_values, labels)
    groups = output.denoising_meta_values["dn_num_group"]
    noised = sum(sum(all_of(part(layer, slice(0, asked)), indices, number * groups).values()) for layer in every)
    tokens = {"logits": output.enc_topk_logits, "pred_boxes": output.enc_topk_bboxes}
    dense = sum(all_of(tokens, criterion.matcher(tokens, labels), number).values())
    found |= {"denoising": noised.item(), "dense": dense.item()}
    total = total + noised + dense
    return total, found | {"total": total.item()}


def gradients(model):
    """Under the model's names, as the docstring says."""
    out = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        trained = isinstance(tensor, nn.Parameter) and tensor.requires_grad
        out[name] = (tensor.grad if tensor.grad is not None else torch.zeros_like(tensor)) if trained else tensor
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            out[f"{name}.weight"] = torch.ones_like(module.weight)
        if type(module).__name__.endswith("RepVggBlock"):
            for key in out:
                if key.startswith(f"{name}.conv2.") and not key.endswith(("norm.weight", "running_var", "num_batches_tracked")):
                    out[key] = torch.zeros_like(out[key])
        if type(module).__name__.endswith("LQE"):
            key = next(key for key in out if key.startswith(f"{name}.") and key.endswith("layers.0.weight"))
            out[key] = out[key].clone()
            out[key][:, module.top_prob_values::module.top_prob_values + 1] = 0
    return out


def saved(tensors):
    kept = {k: t for k, t in tensors.items() if not k.startswith(("class_embed", "bbox_embed")) and not k.endswith("num_batches_tracked")}
    return {name: tensor.detach().contiguous().clone() for name, tensor in kept.items()}


def main():
    # The losses turn some numbers to single precision.
    torch.Tensor.float, single = torch.Tensor.double, torch.Tensor.float
    for seed, name, kind, config, loss in cases():
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = kind(config)
        shake(model, generator)
        # As they are stored.
        model = model.half().double().train()
        plain_norms(model)
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        config.save_pretrained(folder)
        RTDetrImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
        # f16, but for what must be exact.
        exact = lambda key: key.endswith(("running_var", "up", "reg_scale"))
        save_file({key: tensor if not tensor.is_floating_point() else single(tensor) if exact(key) else tensor.half() for key, tensor in saved(model.state_dict()).items()}, folder / "model.safetensors", {"format": "pt"})
        names = saved(model.state_dict())
        if name == "deimv2":
            model = as_trained(model)
        labels = [{"class_labels": torch.tensor([c for c, _ in image]), "boxes": torch.tensor([b for _, b in image]).double()} for image in TARGETS]
        asked = {}
        restore = denoising(model, asked)
        output = model.model(pixels(), labels=labels)
        restore()
        total, found = losses(model, loss, config, labels, output)
        total.backward()
        # With what is undone as zeros: the names are all of a model's.
        all_names = {key: torch.zeros_like(tensor) for key, tensor in names.items()} | saved(gradients(model))
        save_file({k: single(t) if t.is_floating_point() else t for k, t in all_names.items()}, folder / "gradients.safetensors", {"format": "pt"})
        count = asked["classes"].shape[1]
        half = len(TARGETS[0])
        queries = []
        for n in range(BATCH):
            positive = set(asked["meta"]["dn_positive_idx"][n].tolist())
            queries.append([
                {"class": int(asked["classes"][n, i]), "bounds": asked["boxes"][n, i].tolist(), "group": i // (2 * half), "target": i % half if i in positive else None}
                for i in range(count)])
        case = {"targets": [[{"class": c, "bounds": b} for c, b in image] for image in TARGETS], "asked": queries, "losses": found}
        (folder / "case.json").write_text(json.dumps(case))
        sizes = {file.name: file.stat().st_size // 1000 for file in folder.iterdir()}
        print(name, found, sizes, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    main()
