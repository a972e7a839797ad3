"""Makes FOLDER/NAME: detectors of RT-DETR's family at their published sizes with random weights, as transformers saves them.

    pip install torch transformers==5.24 safetensors
    python benches/family.py FOLDER [NAME …]
    node tests/browser/family.js FOLDER           # what they cost in a browser

Costs depend on shapes alone. The sizes are those of the checkpoints named beside each, as transformers' conversion scripts and the configs of
https://github.com/lyuwenyu/RT-DETR, https://github.com/Peterande/D-FINE and https://github.com/Intellindust-AI-Lab/DEIMv2 state them; what isn't
stated here is the default of transformers, which is RT-DETR's with ResNet-50. Where none is stated, the input is 640×640.
"""
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import (
    AutoConfig, Deimv2Config, Deimv2ForObjectDetection, DFineConfig, DFineForObjectDetection, HGNetV2Config, RTDetrConfig, RTDetrForObjectDetection,
    RTDetrImageProcessor, RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection,
)

LAYOUT = [
    "Caption", "Footnote", "Formula", "List-item", "Page-footer", "Page-header", "Picture", "Section-header", "Table", "Text", "Title",
    "Document Index", "Code", "Checkbox-Selected", "Checkbox-Unselected", "Form", "Key-Value Region",
]


def names(labels):
    return dict(id2label=dict(enumerate(labels)), label2id={name: i for i, name in enumerate(labels)})


EIGHTY = names([f"class {i}" for i in range(80)])
THREE = [2, 3, 4]


def resnet18():
    return RTDetrResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic", out_indices=THREE)


def hgnet(outputs, channels=(64, 256, 512, 1024), blocks=(1, 1, 2, 1), kernels=(3, 3, 5, 5)):
    """HGNetV2 "B0" of D-FINE; DEIMv2's smallest stop at stride 16."""
    stages = len(channels)
    return HGNetV2Config(
        hidden_sizes=list(channels), depths=[3] * stages, stem_channels=[3, 16, 16], stage_in_channels=[16, 64, 256, 512][:stages],
        stage_mid_channels=[16, 32, 64, 128][:stages], stage_out_channels=list(channels), stage_num_blocks=list(blocks)[:stages],
        stage_downsample=[False, True, True, True][:stages], stage_downsample_strides=[2] * stages,
        stage_light_block=[False, False, True, True][:stages], stage_kernel_size=list(kernels)[:stages], stage_numb_of_layers=[3] * stages,
        use_learnable_affine_block=True, out_indices=outputs,
    )


def two_levels(width, ffn, points):
    return dict(
        encoder_hidden_dim=width, d_model=width, decoder_in_channels=[width, width], decoder_ffn_dim=ffn, num_feature_levels=2,
        decoder_n_points=points, decoder_layers=3, hidden_expansion=0.34, depth_mult=0.5,
    )


def deim_lite(width, ffn, queries, size, **backbone):
    """DEIMv2's LiteEncoder: one feature map of the backbone at stride 16, from which the neck makes two."""
    config = hgnet([3], **backbone)
    return Deimv2Config(
        backbone_config=config, encoder_type="lite", encoder_layers=0, encoder_in_channels=[config.stage_out_channels[-1]], feat_strides=[16],
        num_queries=queries, eval_size=[size, size], share_bbox_head=True, use_gateway=False, decoder_activation_function="silu",
        **two_levels(width, ffn, [4, 2]), **EIGHTY)


def models():
    small = dict(hidden_expansion=0.5, decoder_layers=3)
    d_fine = dict(backbone_config=hgnet([3, 4]), encoder_in_channels=[512, 1024], feat_strides=[16, 32], encoder_ffn_dim=512, encode_proj_layers=[1])
    # PekingU/rtdetr_r18vd, PekingU/rtdetr_r50vd
    yield "rt-detr-r18", 640, RTDetrForObjectDetection, lambda: RTDetrConfig(
        backbone_config=resnet18(), encoder_in_channels=[128, 256, 512], **small, **EIGHTY)
    yield "rt-detr-r50", 640, RTDetrForObjectDetection, lambda: RTDetrConfig(backbone_config=RTDetrResNetConfig(out_indices=THREE), **EIGHTY)
    # docling-project/docling-layout-heron, which is PekingU/rtdetr_v2_r50vd with 17 classes
    yield "rt-detr-v2-r50", 640, RTDetrV2ForObjectDetection, lambda: RTDetrV2Config(
        backbone_config=RTDetrResNetConfig(out_indices=THREE), **names(LAYOUT))
    # ustc-community/dfine-nano-coco, ustc-community/dfine-small-coco
    yield "d-fine-n", 640, DFineForObjectDetection, lambda: DFineConfig(**d_fine, **two_levels(128, 512, [6, 6]), **EIGHTY)
    yield "d-fine-s", 640, DFineForObjectDetection, lambda: DFineConfig(
        backbone_config=hgnet(THREE), encoder_in_channels=[256, 512, 1024], decoder_n_points=[3, 6, 3], depth_mult=0.34, **small, **EIGHTY)
    # Intellindust/DEIMv2_HGNetv2_ATTO_COCO, …_FEMTO_COCO, …_PICO_COCO, …_N_COCO
    yield "deimv2-atto", 320, Deimv2ForObjectDetection, lambda: deim_lite(64, 160, 100, 320, channels=(64, 256, 256), blocks=(1, 1, 1), kernels=(3, 3, 3))
    yield "deimv2-femto", 416, Deimv2ForObjectDetection, lambda: deim_lite(96, 256, 150, 416, channels=(64, 256, 512), blocks=(1, 1, 1))
    yield "deimv2-pico", 640, Deimv2ForObjectDetection, lambda: deim_lite(112, 320, 200, 640, channels=(64, 256, 512), blocks=(1, 1, 2))
    yield "deimv2-n", 640, Deimv2ForObjectDetection, lambda: Deimv2Config(
        **d_fine, eval_size=[640, 640], decoder_activation_function="silu", **two_levels(128, 512, [6, 6]), **EIGHTY)


def shake(model):
    """Values of an ordinary size at every depth: computing with denormal ones is slow."""
    for name, tensor in model.named_parameters():
        if tensor.ndim > 1:
            torch.nn.init.normal_(tensor, std=tensor[0].numel() ** -0.5)


@torch.no_grad()
def main(folder, *wanted):
    unknown = set(wanted) - {name for name, *_ in models()}
    if unknown:
        sys.exit(f"no such model: {', '.join(sorted(unknown))}")
    for name, size, kind, config in models():
        if wanted and name not in wanted:
            continue
        torch.manual_seed(0)
        config = config()
        model = kind(config).eval()
        shake(model)
        out = Path(folder) / name
        model.save_pretrained(out)
        if getattr(config, "share_bbox_head", False):
            # 5.24 loses a shared box head between saving and reading: all copies are written, as in tests/make_rt_detr_fixtures.py.
            tensors = {key: tensor.contiguous().clone() for key, tensor in model.state_dict().items() if not key.startswith(("class_embed", "bbox_embed"))}
            save_file(tensors, out / "model.safetensors", {"format": "pt"})
        RTDetrImageProcessor(size={"height": size, "width": size}).save_pretrained(out)
        assert AutoConfig.from_pretrained(out).model_type == config.model_type
        print(f"{out}: {sum(tensor.numel() for tensor in model.parameters()) / 1e6:.2f} M parameters, {(out / 'model.safetensors').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python benches/family.py FOLDER [NAME …]")
    main(*sys.argv[1:])
