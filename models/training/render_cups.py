"""Pictures of cups, mugs and bowls on a table from near by, rendered: what the training pictures hardly have.

    pip install mitsuba numpy pillow
    python render_cups.py DATA FOLDER [--from 0] [--to 400]

Shapes, colours, fillings, light and view are drawn at random; tables and surroundings are DATA's pictures. FOLDER/NNNN.png is a picture and
FOLDER/NNNN.json what stands there: pairs of "cup" or "bowl" and [x, y, width, height], with the handle and without the saucer.
"""

import argparse
import json
from pathlib import Path

import mitsuba as mi
import numpy as np
from PIL import Image, ImageFilter

mi.set_variant("scalar_rgb")
from mitsuba import ScalarTransform4f as T  # noqa: E402

SIZE = 192


def mesh(name, points, faces, bsdf):
    properties = mi.Properties()
    properties["mesh_bsdf"] = mi.load_dict(bsdf)
    made = mi.Mesh(name, len(points), len(faces), props=properties)
    parameters = mi.traverse(made)
    parameters["vertex_positions"] = np.ascontiguousarray(points, np.float32).ravel()
    parameters["faces"] = np.ascontiguousarray(faces, np.uint32).ravel()
    parameters.update()
    return made


def grid(rows, columns):
    """Triangles of a grid of points, whose last column meets the first."""
    faces = []
    for row in range(rows - 1):
        for column in range(columns):
            a, b = row * columns + column, row * columns + (column + 1) % columns
            faces += [[a, b, b + columns], [a, b + columns, a + columns]]
    return np.array(faces)


def lathe(profile, around=72):
    """What a profile of (radius, height) sweeps about the z axis."""
    angle = np.linspace(0, 2 * np.pi, around, endpoint=False)
    radius, height = np.array(profile).T
    points = np.stack([radius[:, None] * np.cos(angle), radius[:, None] * np.sin(angle), np.broadcast_to(height[:, None], (len(radius), around))], -1)
    return points.reshape(-1, 3), grid(len(radius), around)


def tube(path, thick, wide, around=14):
    """A tube of elliptic section along a path in the xz plane."""
    path = np.array(path)
    along = np.gradient(path, axis=0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.stack([-along[:, 2], 0 * along[:, 0], along[:, 0]], -1)
    angle = np.linspace(0, 2 * np.pi, around, endpoint=False)
    points = path[:, None] + thick * np.cos(angle)[None, :, None] * across[:, None] + wide * np.sin(angle)[None, :, None] * np.array([0, 1, 0])
    return points.reshape(-1, 3), grid(len(path), around)


def colour(draw):
    hue, pale, bright = draw.random(), draw.random() ** 1.5, draw.uniform(0.03, 0.9)
    full = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return (bright * (1 - pale * (1 - full))).tolist()


def glaze(rgb, rough):
    kind = {"type": "roughplastic", "alpha": rough} if rough > 0.05 else {"type": "plastic"}
    return {"type": "twosided", "bsdf": {**kind, "diffuse_reflectance": {"type": "rgb", "value": list(map(float, rgb))}}}


FILLINGS = {
    "cup": [(0.55, 0.33, 0.13), (0.45, 0.24, 0.09), (0.03, 0.015, 0.01), (0.62, 0.45, 0.28), (0.25, 0.08, 0.02), (0.75, 0.62, 0.45), (0.35, 0.2, 0.1), (0.5, 0.5, 0.15)],
    "bowl": [(0.7, 0.25, 0.08), (0.8, 0.78, 0.7), (0.35, 0.45, 0.1), (0.75, 0.6, 0.2), (0.4, 0.2, 0.1), (0.6, 0.05, 0.05)],
}


def vessel(draw, kind, scene, name, where):
    """Puts a vessel on the table; gives the points by which its box is found."""
    if kind == "bowl":
        height, top = draw.uniform(0.3, 0.6), draw.uniform(0.6, 0.95)
        base, bend = top * draw.uniform(0.35, 0.6), draw.uniform(0.4, 0.7)
    elif draw.random() < 0.3:
        height, top = draw.uniform(0.85, 1.15), draw.uniform(0.38, 0.5)
        base, bend = top * draw.uniform(0.85, 1.02), 1
    else:
        height, top = draw.uniform(0.5, 0.95), draw.uniform(0.42, 0.62)
        base, bend = top * draw.uniform(0.45, 0.95), draw.uniform(0.35, 1)
    wall = draw.uniform(0.03, 0.075)
    outside, rough = (colour(draw) if draw.random() < 0.65 else [draw.uniform(0.5, 0.92)] * 3), draw.choice([0.0, 0.1, 0.3])
    inside = [draw.uniform(0.6, 0.92)] * 3 if draw.random() < 0.55 else outside
    saucer = draw.random() < (0.75 if kind == "cup" and bend < 1 else 0.15)
    floor = 0.06 if saucer else 0.0

    def radius(share):
        return base + (top - base) * share**bend

    shares = np.linspace(0, 1, 24)
    outer = [(0.0, floor), (base * 0.98, floor)] + [(radius(s), floor + height * (0.02 + 0.98 * s)) for s in shares]
    bow = [(top - wall / 2 + wall / 2 * np.cos(a), floor + height + wall / 2 * np.sin(a)) for a in np.linspace(0, np.pi, 8)]
    inner = bow + [(max(radius(s) - wall, 0.02), floor + height * s) for s in shares[::-1] if s > wall / height] + [(0.0, floor + wall)]
    turn = T().translate([*where, 0]).rotate([0, 0, 1], draw.uniform(0, 360))

    def put(part, shape, bsdf):
        points, faces = shape
        points = np.array([turn @ mi.ScalarPoint3f(*map(float, point)) for point in points])
        scene[f"{name}_{part}"] = mesh(f"{name}_{part}", points, faces, bsdf)
        return points

    corners = [put("outer", lathe(outer), glaze(outside, rough)), put("inner", lathe(inner), glaze(inside, rough))]
    if draw.random() < 0.85:
        level = draw.uniform(0.45, 0.92) if kind == "cup" else draw.uniform(0.6, 0.98)
        fill = np.array(FILLINGS[kind][draw.integers(len(FILLINGS[kind]))]) * draw.uniform(0.7, 1.2, 3)
        around = max(radius(level) - wall, 0.05)
        surface = floor + level * height
        if kind == "cup":
            put("filling", lathe([(0.0, surface), (around * 0.55, surface), (around, surface)]), glaze(np.clip(fill, 0, 0.95), 0.0))
            if draw.random() < 0.5:  # the foam at the wall is another brown
                put("foam", lathe([(around * draw.uniform(0.7, 0.93), surface + 0.004), (around, surface + 0.006)]), glaze(np.clip(fill * draw.uniform(0.5, 1.5), 0, 0.95), 0.3))
        else:
            points, faces = lathe([(around * r, surface) for r in np.linspace(0, 1, 16)])
            points[:, 2] += draw.normal(0, 0.03, len(points))
            put("filling", (points, faces), glaze(np.clip(fill, 0, 0.95), 0.3))
    if kind == "cup":
        low, high = draw.uniform(0.12, 0.35), draw.uniform(0.7, 0.92)
        reach, power = draw.uniform(0.22, 0.42), draw.uniform(0.6, 1)
        path = [(radius(low + (high - low) * t) - wall / 2 + reach * np.sin(np.pi * t) ** power, 0.0, floor + height * (low + (high - low) * t)) for t in np.linspace(0, 1, 24)]
        corners.append(put("handle", tube(path, draw.uniform(0.035, 0.06), draw.uniform(0.04, 0.09)), glaze(outside, rough)))
    if saucer:
        size, rise = draw.uniform(1.5, 2.0) * max(top, 0.45), draw.uniform(0.06, 0.2)
        flat = base * draw.uniform(1.0, 1.2)
        plate = [(0, 0.055), (flat, 0.055)] + [(flat + (size - flat) * s, 0.055 + rise * s**1.5) for s in np.linspace(0.05, 1, 16)]
        under = [(r, z - 0.03) for r, z in plate[::-1]]
        same = draw.random() < 0.8
        put("saucer", lathe(plate + under), glaze(outside if same and draw.random() < 0.7 else inside if same else colour(draw), rough))
        if draw.random() < 0.55:
            angle, out = draw.uniform(0, 2 * np.pi), (flat + size) / 2
            metal = {"type": "twosided", "bsdf": {"type": "roughconductor", "material": "Al", "alpha": float(draw.uniform(0.05, 0.2))}}
            lie = T().translate([*where, 0.08 + rise * 0.4]).rotate([0, 0, 1], float(np.degrees(angle))).translate([0, float(out), 0])
            round_, faces = lathe([(np.sin(a), np.cos(a)) for a in np.linspace(0, np.pi, 16)], 24)
            points = np.array([lie @ mi.ScalarPoint3f(*map(float, point)) for point in round_ * [0.24, 0.14, 0.045]])
            scene[f"{name}_spoon"] = mesh(f"{name}_spoon", points, faces, metal)
            scene[f"{name}_stem"] = {"type": "cylinder", "p0": [0.15, 0, 0], "p1": [1.0, 0.0, 0.09], "radius": 0.035, "to_world": lie, "bsdf": metal}
    return np.concatenate(corners)


def linear(picture):
    """A picture's light, which its numbers are the 2.2nd root of."""
    return (np.asarray(picture, np.float32) / 255) ** 2.2


def texture(picture):
    return {"type": "bitmap", "bitmap": mi.Bitmap(linear(picture)), "raw": True, "filter_type": "bilinear", "wrap_mode": "mirror"}


def wood(draw):
    grain = np.cumsum(draw.normal(0, 1, (128, 1)), 0) * 0.1 + draw.normal(0, 0.25, (128, 1)) + draw.normal(0, 0.06, (128, 128)) + np.cumsum(draw.normal(0, 0.04, (128, 128)), 1)
    base = np.array([0.5, 0.28, 0.13]) * draw.uniform(0.3, 1.6) * draw.uniform(0.8, 1.2, 3)
    return Image.fromarray(np.uint8(255 * np.clip(base * (1 + 0.3 * np.tanh(grain))[..., None], 0.02, 0.95) ** (1 / 1.3)))


def render(number, pictures):
    draw = np.random.default_rng(number)
    scene = {"type": "scene", "integrator": {"type": "path", "max_depth": 5}}

    def other():
        return Image.open(pictures[draw.integers(len(pictures))]).convert("RGB")

    kind = draw.random()
    table = wood(draw) if kind < 0.5 else other().resize((192, 192)) if kind < 0.8 else Image.new("RGB", (2, 2), tuple(int(255 * c) for c in colour(draw)))
    size = float(draw.uniform(2, 7))
    scene["table"] = {
        "type": "rectangle",
        "to_world": T().rotate([0, 0, 1], float(draw.uniform(0, 360))).scale([size, size, 1]),
        "bsdf": {"type": "twosided", "bsdf": {"type": "roughplastic", "alpha": float(draw.uniform(0.1, 0.4)), "diffuse_reflectance": texture(table)}},
    }
    sky = linear(other().resize((128, 64)))
    warm = np.array([1, draw.uniform(0.7, 1), draw.uniform(0.45, 1.1)])
    scene["around"] = {"type": "envmap", "bitmap": mi.Bitmap(np.ascontiguousarray((sky * draw.uniform(0.3, 1.2) + 0.05) * warm, np.float32)), "to_world": T().rotate([1, 0, 0], 90)}
    for lamp in range(draw.integers(1, 3)):
        angle, height = draw.uniform(0, 2 * np.pi), draw.uniform(2, 6)
        place = [float(4 * np.cos(angle)), float(4 * np.sin(angle)), float(height)]
        light = (warm * draw.uniform(4, 22)).tolist()
        scene[f"lamp{lamp}"] = {
            "type": "rectangle",
            "to_world": T().look_at(origin=place, target=[0, 0, 0], up=[0, 0.1, 1]).scale(float(draw.uniform(0.4, 1.2))),
            "emitter": {"type": "area", "radiance": {"type": "rgb", "value": light}},
        }

    first = "cup" if draw.random() < 0.7 else "bowl"
    things = [(first, vessel(draw, first, scene, "first", (0.0, 0.0)))]
    if draw.random() < 0.25:
        second, angle = ("cup" if draw.random() < 0.5 else "bowl"), draw.uniform(0, 2 * np.pi)
        things.append((second, vessel(draw, second, scene, "second", (float(2.2 * np.cos(angle)), float(2.2 * np.sin(angle))))))

    angle, rise, view = draw.uniform(0, 2 * np.pi), np.radians(draw.uniform(15, 80)), draw.uniform(30, 55)
    target = np.array([*draw.uniform(-0.3, 0.3, 2), draw.uniform(0.2, 0.5)])
    distance = draw.uniform(1.2, 2.8) / (2 * np.tan(np.radians(view) / 2)) + 0.5
    origin = target + distance * np.array([np.cos(rise) * np.cos(angle), np.cos(rise) * np.sin(angle), np.sin(rise)])
    roll = draw.normal(0, 0.2)
    side = np.array([-np.sin(angle), np.cos(angle), 0])
    up = np.cos(roll) * np.array([0, 0, 1]) + np.sin(roll) * side
    camera = T().look_at(origin=origin.tolist(), target=target.tolist(), up=up.tolist())
    scene["camera"] = {
        "type": "perspective",
        "fov": float(view),
        "to_world": camera,
        "film": {"type": "hdrfilm", "width": SIZE, "height": SIZE, "rfilter": {"type": "gaussian"}},
        "sampler": {"type": "independent", "sample_count": 25},
    }
    pixels = np.array(mi.render(mi.load_dict(scene), seed=number))[..., :3]
    pixels = pixels / np.quantile(pixels, draw.uniform(0.85, 0.99)) * draw.uniform(0.7, 1)
    picture = Image.fromarray(np.uint8(255 * np.clip(pixels, 0, 1) ** (1 / 2.2)))
    picture = picture.filter(ImageFilter.GaussianBlur(draw.uniform(0.3, 0.8)))

    boxes = []
    back = np.linalg.inv(np.array(camera.matrix))
    for kind, points in things:
        seen = (np.concatenate([points, np.ones((len(points), 1))], 1) @ back.T)[:, :3]
        if (seen[:, 2] < 0.05).any():
            continue
        flat = (0.5 - seen[:, :2] / seen[:, 2:] / (2 * np.tan(np.radians(view) / 2))) * SIZE
        whole, (left, top) = flat.max(0) - flat.min(0), np.clip(flat.min(0), 0, SIZE)
        width, height = np.clip(flat.max(0), 0, SIZE) - (left, top)
        if width * height >= 0.4 * whole.prod():
            boxes.append((kind, [round(float(value), 1) for value in (left, top, width, height)]))
    return picture, boxes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--from", type=int, default=0, dest="start")
    parser.add_argument("--to", type=int, default=400)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    labels = json.loads((options.data / "train_unlabelled.json").read_text())
    pictures = [options.data / "images" / image["file_name"] for image in labels["images"]]
    for number in range(options.start, options.to):
        picture, boxes = render(number, pictures)
        picture.save(options.folder / f"{number:04}.png")
        (options.folder / f"{number:04}.json").write_text(json.dumps(boxes))


main()
