"""Makes tests/fixtures/pictures: sizes by transformers, and small pictures with what Pillow makes of them.

    pip install torch torchvision transformers pillow numpy      # transformers 5.23, Pillow 13.0 made these files
    python tests/make_pictures.py
"""
import random
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.image_transforms import get_size_with_aspect_ratio

out = Path(__file__).parent / "fixtures" / "pictures"
out.mkdir(parents=True, exist_ok=True)
rng = random.Random(0)

# Sizes: the usual ones, those at the limit, and many at random.
sizes = [(480, 640), (640, 480), (333, 500), (300, 1000), (1000, 300), (800, 1066), (1066, 800), (800, 800), (800, 1333), (800, 1334),
         (1333, 800), (600, 1000), (1, 1), (3, 5), (799, 1332), (801, 1335), (4000, 3000), (3000, 4000), (1080, 1920), (512, 512)]
sizes += [(rng.randint(20, 4500), rng.randint(20, 4500)) for _ in range(400)]
rules = [(800, 1333), (480, 640), (320, 533), (384, 384)]
with open(out / "sizes.csv", "w") as file:
    file.write("short,long,height,width,out_height,out_width\n")
    for i, size in enumerate(sizes):
        for rule in rules if i < 20 else [rules[i % len(rules)]]:
            result = get_size_with_aspect_ratio(size, *rule)
            if min(result) > 0:
                file.write(",".join(map(str, (*rule, *size, *result))) + "\n")

# Resizing: noise (nothing hides a wrong weight) with flat and extreme patches, and its size after Pillow's bilinear filter.
noise = np.random.default_rng(0).integers(0, 256, (37, 53, 3), dtype=np.uint8)
noise[5:15, 5:20], noise[20:30, 30:50] = 255, 0
source = Image.fromarray(noise)
source.save(out / "noise.png")
for width, height in ((24, 17), (53, 90), (120, 37), (101, 71), (7, 3), (1, 1), (53, 37)):
    source.resize((width, height), Image.BILINEAR).save(out / f"noise_{width}x{height}.png")

# Decoding: every kind of PNG, WebP and JPEG that a phone, a camera or a screenshot makes, with its pixels as Pillow sees them.
y, x = np.mgrid[0:24, 0:32]
smooth = np.stack([x * 8, y * 10, 255 - x * 4 - y * 4], -1).astype(np.uint8)
smooth[2:8, 3:12] = (250, 20, 20)
rgb = Image.fromarray(smooth)
alpha = Image.fromarray(np.concatenate([smooth, (x * 8)[..., None].astype(np.uint8)], -1))
rgb.save(out / "rgb.png")
rgb.save(out / "rgb.jpg", quality=95, subsampling=0)
rgb.save(out / "rgb.webp", lossless=True)
rgb.convert("CMYK").save(out / "cmyk.jpg", quality=95)
rgb.convert("L").save(out / "grey.png")
rgb.convert("L").save(out / "grey.jpg", quality=95)
alpha.save(out / "alpha.png")
alpha.save(out / "alpha.webp", lossless=True, exact=True)
rgb.quantize(16).save(out / "palette.png")
rgb.convert("1").save(out / "bits.png")
Image.fromarray((np.asarray(rgb.convert("L")).astype(np.uint16) * 257)).save(out / "grey16.png")
rgb.save(out / "progressive.jpg", quality=95, subsampling=0, progressive=True)
for name in ("grey.png", "palette.png", "bits.png"):
    Image.open(out / name).convert("RGB").save(out / name.replace(".png", "_rgb.png"))
# On white, where they are transparent; of a palette and of grey too.
def on_white(image):
    image = image.convert("RGBA")
    paper = Image.new("RGB", image.size, "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


on_white(alpha).save(out / "alpha_rgb.png")
alpha.convert("LA").save(out / "grey_alpha.png")
on_white(alpha.convert("LA")).save(out / "grey_alpha_rgb.png")
rgb.quantize(16).save(out / "palette_alpha.png", transparency=bytes(range(0, 256, 17)))
on_white(Image.open(out / "palette_alpha.png")).save(out / "palette_alpha_rgb.png")
rgb.quantize(16).save(out / "first_frame.gif", save_all=True, append_images=[rgb.rotate(180).quantize(16)], transparency=3)
on_white(Image.open(out / "first_frame.gif")).save(out / "first_frame_rgb.png")
rgb.save(out / "rgb.bmp")
rgb.save(out / "rgb.tif", compression="tiff_lzw")
exif = Image.Exif()
for orientation in range(1, 9):
    exif[0x0112] = orientation
    # Saved as a camera does: pixels turned back so that the orientation makes them upright again.
    back = {1: None, 2: Image.FLIP_LEFT_RIGHT, 3: Image.ROTATE_180, 4: Image.FLIP_TOP_BOTTOM, 5: Image.TRANSPOSE, 6: Image.ROTATE_90,
            7: Image.TRANSVERSE, 8: Image.ROTATE_270}[orientation]
    turned = rgb if back is None else rgb.transpose(back)
    turned.save(out / f"orientation_{orientation}.jpg", quality=95, subsampling=0, exif=exif)
    turned.save(out / f"orientation_{orientation}.webp", lossless=True, exif=exif)
    turned.save(out / f"orientation_{orientation}.png", exif=exif)
    if orientation == 6:
        turned.save(out / "orientation_6.tif", tiffinfo={0x0112: orientation})
