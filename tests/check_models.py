"""The models that `check_onnx.py` and `check_pytorch.py` go through: embedded ones, and fixtures with the options that they are read with."""

MODELS = ["deimv2-femto", "detr-lite0-speed"]
FIXTURES = {
    "basic": [], "bottleneck-dc5": [], "lite0": [], "native": [], "native-basic": [], "original-zip": ["--heads", "4"],
    "original-legacy": ["--heads", "3", "--dilation"], "trimmed": [], "family/rt_detr": [], "family/rt_detr_v2": [], "family/rt_detr_v2-discrete": [],
    "family/rt_detr-levels": [], "family/rt_detr_v2-pre-norm": [],
    "family/d_fine": [], "family/deimv2-hybrid": ["--exact-transformers"], "family/deimv2-lite-as-trained": [],
}
