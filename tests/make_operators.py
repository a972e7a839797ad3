"""Makes fixtures/operators.safetensors: operators of multi-scale detection transformers on small random tensors, as PyTorch computes them
in float64. Every backend is held against it.

    pip install torch safetensors
    python make_operators.py

A case is named {operation}.{number}; its tensors are {case}.{argument} and {case}.out, channels-last as in src/backend.rs, and the header
holds its options as JSON.
"""
import json, pathlib
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

generator = torch.Generator().manual_seed(11)
tensors, options = {}, {}


def random(*shape, low=-1., high=1.):
    # As float32 has them.
    return (torch.rand(shape, generator=generator) * (high - low) + low).double()


def case(operation, arguments, out, **more):
    name = f"{operation}.{sum(other.startswith(operation + '.') for other in options)}"
    options[name] = more
    tensors.update({f"{name}.{key}": value.float().contiguous() for key, value in {**arguments, "out": out}.items()})


first, last = (lambda x: x.permute(0, 3, 1, 2)), (lambda x: x.permute(0, 2, 3, 1))


def deformable(value, offsets, weights, boxes, heads, levels, points, offset_scale, method):
    """Each level sampled by grid_sample, or by the indices of the nearest places."""
    batch, queries = boxes.shape[:2]
    weights = weights.view(batch, queries, heads, -1).softmax(-1)
    offsets = offsets.view(batch, queries, heads, -1, 2)
    count = torch.tensor([p for p in points for _ in range(p)]).view(-1, 1)
    locations = boxes[:, :, None, None, :2] + offsets / count * boxes[:, :, None, None, 2:] * offset_scale
    sampled = []
    maps = value.split([height * width for height, width in levels], 1)
    for (height, width), x, at in zip(levels, maps, locations.split(points, 3)):
        x = x.view(batch, height, width, heads, -1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        at = at.permute(0, 2, 1, 3, 4).flatten(0, 1)
        if method == "default":
            sampled.append(F.grid_sample(x, 2 * at - 1, mode="bilinear", padding_mode="zeros", align_corners=False))
        else:
            place = (at * torch.tensor([width, height]) + .5).floor().long()
            column, row = place[..., 0].clamp(0, width - 1), place[..., 1].clamp(0, height - 1)
            sampled.append(torch.stack([x[i][:, row[i], column[i]] for i in range(len(x))]))
    sampled = torch.cat(sampled, -1).unflatten(0, (batch, heads))
    return torch.einsum("bhcqp,bqhp->bqhc", sampled, weights).flatten(2)


for batch, queries, heads, width, levels, points, scale in [
    (1, 3, 1, 1, [[1, 1]], [2], 1.), (2, 5, 2, 5, [[5, 3], [2, 2]], [3, 1], .5), (1, 4, 3, 12, [[4, 6], [2, 3], [1, 2]], [3, 6, 3], .5), (1, 6, 1, 32, [[3, 7]], [4], 2.),
]:
    for method in ["default", "discrete"]:
        # Some boxes are centred outside of the picture.
        arguments = dict(value=random(batch, sum(h * w for h, w in levels), heads * width), offsets=random(batch, queries, heads * sum(points) * 2, low=-3, high=3),
                         weights=random(batch, queries, heads * sum(points), low=-2, high=2), boxes=random(batch, queries, 4, low=-.2, high=1.2))
        fixed = dict(heads=heads, levels=levels, points=points, offset_scale=scale, method=method)
        case("deformable_attention", arguments, deformable(**arguments, **fixed), **fixed)

for shape, kernel, stride, padding in [((1, 7, 5, 3), [3, 3], 2, 1), ((2, 4, 6, 5), [2, 2], 2, 0), ((1, 5, 6, 9), [3, 3], 1, 1), ((2, 3, 4, 2), [3, 4], 1, 0)]:
    # All below zero, so that padding shows.
    x = random(*shape, low=-3, high=-1)
    pool = lambda out, kind: case("pool", dict(x=x), last(out), kernel=kernel, stride=stride, padding=padding, pool=kind)
    pool(F.max_pool2d(first(x), kernel, stride, padding), "max")
    pool(F.max_pool2d(F.pad(first(x), [padding] * 4), kernel, stride), "max_of_zero_padded")
    pool(F.avg_pool2d(first(x), kernel, stride, padding), "average")
    pool(F.avg_pool2d(first(x), kernel, stride, padding, count_include_pad=False), "average_within")

x = random(2, 3, 5, 3)
case("upsample", dict(x=x), last(F.interpolate(first(x), scale_factor=2, mode="nearest")))

for shape in [(3, 7), (2, 3, 33)]:
    x = random(*shape, low=-4, high=4)
    case("softmax", dict(x=x), x.softmax(-1))
    for name in ["relu", "gelu", "silu", "sigmoid", "relu6"]:
        case("activate", dict(x=3 * x), getattr(F, name)(3 * x), activation=name)
    weight = random(shape[-1])
    case("rms_norm", dict(x=x, weight=weight), F.rms_norm(x, [shape[-1]], weight, 1e-6), epsilon=1e-6)
    case("clamp", dict(x=x), x.clamp(-1.5, 2), min=-1.5, max=2)
    case("top_values", dict(x=x), x.topk(4).values, k=4)
    case("narrow", dict(x=x), x.narrow(-1, 2, 4), start=2, length=4)

for a, b in [((2, 3, 5), (2, 1, 5)), ((2, 3, 4, 5), (1, 3, 1, 5)), ((2, 3, 4), (2, 3, 4))]:
    a, b = random(*a), random(*b)
    case("add", dict(a=a, b=b), F.silu(a + b), activation="silu")
    case("multiply", dict(a=a, b=b), a * b)
a, b = random(2, 3, 4, 5), random(2, 3, 1, 5)
case("concat", dict(a=a, b=b), torch.cat([a, b], 2), axis=2)

for batch, tokens, classes, k in [(1, 9, 1, 9), (2, 13, 5, 4)]:
    scores, x = random(batch, tokens, classes), random(batch, tokens, 3)
    chosen = scores.amax(-1).topk(k).indices
    case("top_tokens", dict(scores=scores), chosen, k=k)
    case("gather", dict(scores=scores, x=x), x.gather(1, chosen[..., None].expand(-1, -1, 3)), k=k)

for shape, outputs, kernel, stride, padding, activation in [((1, 5, 6, 3), 9, 3, 2, 1, "relu"), ((2, 3, 4, 5), 7, 1, 1, 0, "silu")]:
    x, weight, bias, affine = random(*shape), random(outputs, kernel, kernel, shape[3]), random(outputs), random(2)
    out = getattr(F, activation)(F.conv2d(first(x), first(weight), bias, stride, padding))
    fixed = dict(kernel=[kernel, kernel], stride=stride, padding=padding, activation=activation)
    case("conv", dict(x=x, weight=weight, bias=bias, affine=affine), last(out * affine[0] + affine[1]), **fixed)
    weight, bias = random(kernel, kernel, shape[3]), random(shape[3])
    out = getattr(F, activation)(F.conv2d(first(x), weight.permute(2, 0, 1)[:, None], bias, stride, padding, groups=shape[3]))
    case("depthwise", dict(x=x, weight=weight, bias=bias, affine=affine), last(out * affine[0] + affine[1]), **fixed)

out = pathlib.Path(__file__).parent / "fixtures" / "operators.safetensors"
save_file(tensors, out, {"cases": json.dumps(options)})
print(f"{out}: {len(options)} cases, {out.stat().st_size} bytes")
