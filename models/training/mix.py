"""The weights between two states of one run: a share of the second, the rest of the first (Wortsman et al. 2022, arXiv:2109.01903).

    pip install numpy safetensors
    python mix.py FIRST SECOND SHARE OUT

What a model learns anew costs some of what it knew; on the way from the one to the other there are models that have most of both. The states are
compact ones, as `detrim train` writes best.safetensors.
"""

import sys

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

first, second, share, out = sys.argv[1:]
share = float(share)
with safe_open(first, "np") as a, safe_open(second, "np") as b:
    if set(a.keys()) != set(b.keys()):
        sys.exit(f"{first} and {second} have other tensors: {sorted(set(a.keys()) ^ set(b.keys()))[:5]}")
    mixed = {}
    for name in a.keys():
        x, y = a.get_tensor(name), b.get_tensor(name)
        mixed[name] = ((1 - share) * x.astype(np.float32) + share * y.astype(np.float32)).astype(x.dtype) if x.dtype.kind == "f" else y
    save_file(mixed, out, metadata=b.metadata())
