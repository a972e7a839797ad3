"""Makes tests/fixtures/family/NAME: small random detectors of RT-DETR's family as transformers saves them, and what it computes with them.

    pip install torch transformers==5.24 safetensors
    python tests/make_rt_detr_fixtures.py [NAME…]

`case.safetensors`: pixel_values and every stage that `detrim forward` names. Batch norms have random statistics, so that folding them shows.
The DEIMv2 ones whose name ends in -as-trained compute what DEIMv2 does (see `as_trained`); the others are transformers' own computation.
"""
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import (
    Deimv2Config, Deimv2ForObjectDetection, DFineConfig, DFineForObjectDetection, HGNetV2Config, RTDetrConfig, RTDetrForObjectDetection,
    RTDetrImageProcessor, RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection,
)

OUT = Path(__file__).parent / "fixtures" / "family"
LABELS = {0: "person", 1: "bicycle", 2: "car", 3: "motorcycle", 4: "airplane"}

transformer = dict(
    encoder_attention_heads=2, encoder_ffn_dim=40, decoder_attention_heads=4, decoder_ffn_dim=48, d_model=32,
    num_queries=9, decoder_layers=3, id2label=LABELS, label2id={name: i for i, name in LABELS.items()}, num_denoising=10,
)
three = dict(encoder_in_channels=[16, 24, 32], encoder_hidden_dim=16, decoder_in_channels=[16, 16, 16], feat_strides=[8, 16, 32])


def resnet(basic):
    return RTDetrResNetConfig(
        embedding_size=16, hidden_sizes=[16, 16, 24, 32] if basic else [32, 16, 24, 32], depths=[1, 2, 1, 1],
        layer_type="basic" if basic else "bottleneck", out_indices=[2, 3, 4],
    )


def hgnet(stages, outputs, affine=True):
    return HGNetV2Config(
        hidden_sizes=[16, 16, 24, 32][:stages], depths=[1] * stages, stem_channels=[3, 8, 12], stage_in_channels=[12, 16, 16, 24][:stages],
        stage_mid_channels=[8, 8, 12, 8][:stages], stage_out_channels=[16, 16, 24, 32][:stages], stage_num_blocks=[1, 2, 1, 1][:stages],
        stage_downsample=[False, True, True, True][:stages], stage_downsample_strides=[2] * stages,
        stage_light_block=[False, False, True, True][:stages], stage_kernel_size=[3, 3, 5, 5][:stages], stage_numb_of_layers=[2, 2, 3, 2][:stages],
        use_learnable_affine_block=affine, out_indices=outputs,
    )


def as_trained(model):
    """Undoes what transformers 5.24's DEIMv2 has of D-FINE: a map and norm before the selection, ReLU in the box and quality heads, positions
    of the queries made anew in every layer."""
    core, decoder, memo = model.model, model.model.decoder, []
    core.enc_output = nn.Identity()
    for mlp in (core.enc_bbox_head, decoder.pre_bbox_head, *decoder.bbox_embed, *(quality.reg_conf for quality in decoder.lqe_layers)):
        mlp.act = nn.SiLU()
    fresh = decoder.query_pos_head.forward
    decoder.register_forward_pre_hook(lambda *_: memo.clear())
    decoder.query_pos_head.forward = lambda boxes: memo[0] if memo else (memo.append(fresh(boxes)) or memo[0])
    return model


def cases():
    yield "rt_detr", RTDetrForObjectDetection, RTDetrConfig(backbone_config=resnet(True), hidden_expansion=0.5, **transformer, **three), {}
    yield "rt_detr_v2", RTDetrV2ForObjectDetection, RTDetrV2Config(
        backbone_config=resnet(False), decoder_n_points=3, decoder_offset_scale=0.4, **transformer, **three), {}
    yield "rt_detr_v2-discrete", RTDetrV2ForObjectDetection, RTDetrV2Config(
        backbone_config=resnet(True), decoder_method="discrete", **transformer, **three), {}
    yield "d_fine", DFineForObjectDetection, DFineConfig(
        backbone_config=hgnet(4, [2, 3, 4]), decoder_n_points=[3, 4, 2], hidden_expansion=0.5, depth_mult=0.34, max_num_bins=8, lqe_hidden_dim=12,
        **transformer, **three), {}
    hybrid = dict(
        encoder_hidden_dim=32,         backbone_config=hgnet(4, [3, 4], affine=False), encoder_in_channels=[24, 32], decoder_in_channels=[32, 32], feat_strides=[16, 32],
        num_feature_levels=2, decoder_n_points=[4, 2], encode_proj_layers=[1], depth_mult=0.67, max_num_bins=16, lqe_hidden_dim=12,
        decoder_activation_function="silu", hidden_expansion=0.34)
    yield "deimv2-hybrid", Deimv2ForObjectDetection, Deimv2Config(**hybrid, **transformer), {}
    lite = dict(
        encoder_hidden_dim=32,         backbone_config=hgnet(3, [3]), encoder_type="lite", encoder_layers=0, encoder_in_channels=[24], decoder_in_channels=[32, 32],
        feat_strides=[16], num_feature_levels=2, decoder_n_points=[4, 2], depth_mult=0.5, hidden_expansion=0.67, max_num_bins=16, lqe_hidden_dim=12,
        share_bbox_head=True, use_gateway=False, decoder_activation_function="silu", eval_size=[64, 96])
    yield "deimv2-lite-as-trained", Deimv2ForObjectDetection, Deimv2Config(**lite, **transformer), {"as_trained": True}
    # What few configs have: a level beyond the encoder's maps, and norms before attention in the encoder.
    small = dict(
        encoder_hidden_dim=16, encoder_in_channels=[12, 16, 20], decoder_in_channels=[16, 16, 16], feat_strides=[8, 16, 32], hidden_expansion=0.5,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=24, decoder_ffn_dim=24, d_model=16, num_queries=7, decoder_layers=2,
        id2label=LABELS, label2id=transformer["label2id"], num_denoising=10)
    thin = RTDetrResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4])
    yield "rt_detr-levels", RTDetrForObjectDetection, RTDetrConfig(backbone_config=thin, num_feature_levels=4, **small), {}
    yield "rt_detr_v2-pre-norm", RTDetrV2ForObjectDetection, RTDetrV2Config(
        backbone_config=thin, normalize_before=True, encoder_layers=2, decoder_n_points=2, **small), {}


def shake(model, generator):
    """Random numbers of a size that makes every part matter."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        random = lambda low, high: low + (high - low) * torch.rand(tensor.shape, generator=generator)
        if not tensor.is_floating_point() or name.endswith(("reg_scale", ".up", "points_scale", "anchors", "valid_mask")):
            continue
        if "running_var" in name:
            tensor.data = random(0.5, 1.5)
        elif "running_mean" in name:
            tensor.data = random(-0.3, 0.3)
        elif name.endswith("lab.scale"):
            tensor.data = random(-1.0, 1.5)
        elif tensor.ndim == 1:
            tensor.data = random(0.6, 1.4) if "weight" in name else random(-0.3, 0.3)
        else:
            fan_in = tensor[0].numel()
            wide = 3.0 if "sampling_offsets" in name else 1.1
            tensor.data = torch.randn(tensor.shape, generator=generator) * wide / fan_in**0.5


@torch.no_grad()
def stages(model, pixels):
    found, core, hooks = {}, model.model, []

    def see(module, store):
        hooks.append(module.register_forward_hook(lambda _, args, output: store(args, output)))

    def maps(name, tensors):
        found.update({f"{name}_{i}": map for i, map in enumerate(tensors)})

    backbone = core.conv_encoder.model if hasattr(core, "conv_encoder") else core.backbone.model
    see(backbone, lambda _, output: maps("backbone", output.feature_maps))
    see(core.encoder, lambda _, output: maps("encoder", output.feature_maps if hasattr(output, "feature_maps") else output.last_hidden_state))
    queries = model.config.num_queries
    see(core.enc_score_head, lambda _, output: found.update(enc_topk_ind=output.max(-1).values.topk(queries, dim=1).indices))
    for i, layer in enumerate(core.decoder.layers):
        see(layer, lambda _, output, i=i: found.update({f"decoder_layer{i}": output}))
    output = model(pixels)
    for hook in hooks:
        hook.remove()
    found |= {"init_reference_points": output.init_reference_points, "logits": output.logits, "pred_boxes": output.pred_boxes}
    found["enc_topk_ind"] = found["enc_topk_ind"].float()
    return {name: tensor.contiguous().clone() for name, tensor in found.items()}


def main():
    for seed, (name, kind, config, options) in enumerate(cases()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = kind(config).eval()
        shake(model, generator)
        folder = OUT / name
        folder.mkdir(parents=True, exist_ok=True)
        # f16, for half of the size; computed in f32.
        model.half().save_pretrained(folder)
        RTDetrImageProcessor(size={"height": 64, "width": 96}).save_pretrained(folder)
        if getattr(config, "share_bbox_head", False):
            # 5.24 loses a shared box head between saving and reading (it ties the one that was saved to a fresh one): all copies are written.
            tensors = {key: tensor.contiguous().clone() for key, tensor in model.state_dict().items() if not key.startswith(("class_embed", "bbox_embed"))}
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        else:
            # Read back, so that the case belongs to the file.
            model, loaded = kind.from_pretrained(folder, output_loading_info=True)
            assert not loaded["missing_keys"], loaded
        model = model.float().eval()
        if options.get("as_trained"):
            model = as_trained(model)
        pixels = torch.rand(1, 3, 64, 96, generator=generator)
        found = stages(model, pixels)
        save_file({"pixel_values": pixels, **found}, folder / "case.safetensors")
        scores = found["logits"].sigmoid()
        print(name, {k: tuple(v.shape) for k, v in found.items() if k in ("logits", "encoder_0")}, "scores", scores.min().item(), scores.max().item(), "boxes std", found["pred_boxes"].std(1).mean().item(), sum(f.stat().st_size for f in folder.iterdir()) // 1000, "kB")


if __name__ == "__main__":
    main()
