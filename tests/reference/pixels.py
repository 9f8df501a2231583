"""Writes `pixels/`: small images in every format that graftd reads, and what Pillow makes of them.

    pixels/<name>.<ext>        an encoded image of 24 x 16 pixels (16 x 24 where it lies on its side,
                               31 x 29 where it is rough)
    pixels/decoded.json        for each file: width, height and Pillow's RGB pixels in hexadecimal,
                               upright (ImageOps.exif_transpose) and converted with convert("RGB")
    pixels/resized.json        for each case: picture size, policy, input size, and Pillow's result
                               for the picture that `pattern` below defines

Crop is that of onnx/models' imagenet_preprocess.py for any side S: the shorter side becomes
round(S / 0.875). Needs Pillow and
numpy:  python tests/reference/pixels.py
"""

import io
import json
import struct
import zlib
from pathlib import Path

import numpy
from PIL import Image, ImageOps

FOLDER = Path(__file__).with_name("pixels")
FOLDER.mkdir(exist_ok=True)
WIDTH, HEIGHT = 24, 16


def smooth(width=WIDTH, height=HEIGHT):
    """A picture without sharp edges, so that JPEG decoders may differ by little."""
    y, x = numpy.mgrid[0:height, 0:width]
    return numpy.stack([x * 8 + 30, y * 12 + 20, 200 - x * 4 - y * 2], axis=2).astype(numpy.uint8)


def pattern(width, height):
    """The picture of the resize cases; the Rust test computes the same."""
    y, x = numpy.mgrid[0:height, 0:width]
    channels = [(x * x * 7 + y * y * 3 + x * y * 5 + (x ^ y) * 37 + c * 85) & 255 for c in range(3)]
    return numpy.stack(channels, axis=2).astype(numpy.uint8)


def save(name, image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    (FOLDER / name).write_bytes(buffer.getvalue())


def save_png(name, color_type, depth, rows, *chunks, interlaced=False):
    """A PNG of a kind that Pillow does not write. `rows` are those of the seven passes one after the
    other where it is interlaced."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, color_type, 0, 0, int(interlaced))
    data = zlib.compress(b"".join(b"\0" + row for row in rows), 9)
    (FOLDER / name).write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunk(*c) for c in chunks)
        + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def passes(pixels):
    """The rows of Adam7's seven passes (PNG specification, section 8.2)."""
    starts = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    for top, left, down, right in starts:
        yield from (row.tobytes() for row in pixels[top::down, left::right])


def save_bmps(rgb, palette):
    """BMPs of kinds that Pillow does not write."""
    save("rgb.bmp", rgb, "BMP")
    save("palette.bmp", palette, "BMP")
    save("grey.bmp", rgb.convert("L"), "BMP")

    top_down = bytearray((FOLDER / "rgb.bmp").read_bytes())
    row = WIDTH * 3
    rows = [top_down[54 + y * row:][:row] for y in range(HEIGHT)]
    struct.pack_into("<i", top_down, 22, -HEIGHT)
    top_down[54:] = b"".join(reversed(rows))
    (FOLDER / "top-down.bmp").write_bytes(top_down)

    # Runs of up to 255 equal pixels, each as its length and index; 0 0 ends a row, 0 1 the picture.
    bottom_up = numpy.asarray(palette)[::-1]
    packed = bytearray()
    for row in bottom_up:
        edges = [0, *(numpy.flatnonzero(numpy.diff(row)) + 1), WIDTH]
        for start, end in zip(edges, edges[1:]):
            packed += bytes([end - start, row[start]])
        packed += b"\0\0"
    packed[-1] = 1
    plain = bytearray((FOLDER / "palette.bmp").read_bytes())
    begin = struct.unpack_from("<I", plain, 10)[0]
    struct.pack_into("<I", plain, 2, begin + len(packed))
    struct.pack_into("<II", plain, 30, 1, len(packed))
    (FOLDER / "run-length.bmp").write_bytes(plain[:begin] + packed)


def save_gifs(palette):
    save("still.gif", palette, "GIF")
    second = Image.new("P", (WIDTH, HEIGHT), 1)
    second.putpalette(palette.getpalette())
    save("animated.gif", palette, "GIF", save_all=True, append_images=[second])
    # The first frame lies in the middle of a canvas that is larger by four pixels on each side.
    small = bytearray((FOLDER / "still.gif").read_bytes())
    struct.pack_into("<HH", small, 6, WIDTH + 8, HEIGHT + 8)
    frame = small.index(b",\0\0\0\0")
    struct.pack_into("<HH", small, frame + 1, 4, 4)
    (FOLDER / "small-frame.gif").write_bytes(small)


def save_rough_jpegs():
    """JPEGs of every sampling and coding, of an odd size and without a smooth spot, where decoders
    that filter or round in another way differ from Pillow's by many levels."""
    picture = pattern(31, 29)
    rgb = Image.fromarray(picture)

    def save_rough(name, image=rgb, **options):
        save(f"rough-{name}.jpg", image, "JPEG", quality=75, **options)
        return bytearray((FOLDER / f"rough-{name}.jpg").read_bytes())

    def write(name, content):
        (FOLDER / f"rough-{name}.jpg").write_bytes(content)

    def resampled(content, sampling):
        """The same blocks declared as lying otherwise in the picture; their number is the same, so
        that this is a right file of a sampling that Pillow does not write."""
        content = bytearray(content)
        content[content.index(b"\xff\xc0") + 11] = sampling
        return content

    save_rough("444", subsampling=0)
    horizontal = save_rough("422", subsampling=1)
    write("440", resampled(horizontal, 0x12))
    both = save_rough("420", subsampling=2)
    write("411", resampled(both, 0x41))
    write("441", resampled(both, 0x14))
    save_rough("restart", subsampling=2, restart_marker_blocks=1)
    save_rough("grey", rgb.convert("L"))
    save_rough("rgb", keep_rgb=True)
    progressive = save_rough("progressive", subsampling=2, progressive=True)
    # Without its last six scans: libjpeg smooths over what the missing bits would have said.
    scans = [at for at in range(len(progressive)) if progressive[at : at + 2] == b"\xff\xda"]
    write("few-scans", progressive[: scans[4]] + b"\xff\xd9")

    inks = Image.fromarray(numpy.dstack([picture, picture[::-1, :, 0]]), "CMYK")
    cmyk = save_rough("cmyk", inks)
    adobe = cmyk.index(b"Adobe")
    write("cmyk-without-adobe", cmyk[: adobe - 4] + cmyk[adobe + 12 :])
    cmyk[adobe + 11] = 2
    write("ycck", cmyk)


def write_images():
    rgb = Image.fromarray(smooth())
    save("baseline.jpg", rgb, "JPEG", quality=95, subsampling=0)
    save("subsampled.jpg", rgb, "JPEG", quality=95, subsampling=2)
    save("progressive.jpg", rgb, "JPEG", quality=95, subsampling=0, progressive=True)
    save("grey.jpg", rgb.convert("L"), "JPEG", quality=95)
    save("restart.jpg", rgb, "JPEG", quality=95, subsampling=0, restart_marker_blocks=1)
    cmyk = Image.fromarray(numpy.dstack([255 - smooth(), numpy.full((HEIGHT, WIDTH), 40, "u1")]), "CMYK")
    save("cmyk.jpg", cmyk, "JPEG", quality=95)
    # YCCK: the same four channels declared as such in the Adobe segment.
    adobe = bytearray((FOLDER / "cmyk.jpg").read_bytes())
    adobe[adobe.index(b"Adobe") + 11] = 2
    (FOLDER / "ycck.jpg").write_bytes(adobe)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        save(f"orientation-{orientation}.jpg", rgb, "JPEG", quality=95, subsampling=0, exif=exif)
        if orientation == 6:
            save("orientation-6.png", rgb, "PNG", exif=exif)
            save("orientation-6.webp", rgb, "WEBP", lossless=True, exif=exif)

    save_rough_jpegs()

    alpha = numpy.dstack([smooth(), (numpy.arange(WIDTH * HEIGHT) % 256).reshape(HEIGHT, WIDTH)])
    rgba = Image.fromarray(alpha.astype(numpy.uint8))
    save("rgb.png", rgb, "PNG")
    save("rgba.png", rgba, "PNG")
    save("grey.png", rgb.convert("L"), "PNG")
    save("grey-alpha.png", rgba.convert("LA"), "PNG")
    save("bilevel.png", rgb.convert("1"), "PNG")
    palette = rgb.quantize(16)
    save("palette.png", palette, "PNG", bits=4)
    save("palette-transparent.png", palette, "PNG", transparency=3)
    wide = smooth().astype(numpy.uint16) * 257
    save_png("rgb-16.png", 2, 16, [row.astype(">u2").tobytes() for row in wide])
    save_png("rgba-16.png", 6, 16, [
        numpy.dstack([row[None], numpy.full((1, WIDTH, 1), 9)]).astype(">u2").tobytes() for row in wide
    ])

    save_png("grey-16.png", 0, 16, [row[:, 0].astype(">u2").tobytes() for row in wide])
    save_png("interlaced.png", 2, 8, passes(smooth()), interlaced=True)

    save("lossy.webp", rgb, "WEBP", quality=95)
    save("lossless.webp", rgb, "WEBP", lossless=True)
    save("alpha.webp", rgba, "WEBP", lossless=True, exact=True)
    other = Image.fromarray(255 - smooth())
    save("animated.webp", rgb, "WEBP", lossless=True, save_all=True, append_images=[other])
    save_bmps(rgb, palette)
    save_gifs(palette)


def decoded():
    answers = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix == ".json":
            continue
        image = ImageOps.exif_transpose(Image.open(path))
        if image.mode == "I;16":
            # convert would clip at 255 instead of scaling; all levels here are multiples of 257.
            image = Image.fromarray((numpy.asarray(image) // 257).astype(numpy.uint8))
        image = image.convert("RGB")
        if path.name == "small-frame.gif":
            # Pillow puts colour 0 where the frame does not reach. Nothing is there: transparent black.
            frame = image.crop((4, 4, 4 + WIDTH, 4 + HEIGHT))
            image = Image.new("RGB", image.size)
            image.paste(frame, (4, 4))
        answers[path.name] = {
            "width": image.width, "height": image.height, "pixels": image.tobytes().hex(),
        }
    return answers


def resize(picture, policy, size):
    width, height = picture.size
    if policy == "squash":
        return picture.resize((size, size), Image.BILINEAR), (0, 0)
    if policy == "pad":
        factor = size / max(width, height)
        inner = [max(1, int(side * factor + 0.5)) for side in (width, height)]
        corner = ((size - inner[0]) // 2, (size - inner[1]) // 2)
        return picture.resize(inner, Image.BILINEAR), corner
    shorter = round(size / 0.875)
    if width <= height:
        whole = (shorter, round(shorter * height / width))
    else:
        whole = (round(shorter * width / height), shorter)
    left, top = ((side - size) // 2 for side in whole)
    resized = picture.resize(whole, Image.BILINEAR)
    return resized.crop((left, top, left + size, top + size)), (0, 0)


def resized():
    cases = []
    for width, height in [(150, 100), (61, 97), (20, 13), (37, 37), (300, 7)]:
        picture = Image.fromarray(pattern(width, height))
        for policy in ["crop", "squash", "pad"]:
            for size in [32]:
                result, corner = resize(picture, policy, size)
                cases.append({
                    "width": width, "height": height, "policy": policy, "size": size,
                    "left": corner[0], "top": corner[1],
                    "inner_width": result.width, "inner_height": result.height,
                    "pixels": result.tobytes().hex(),
                })
    return cases


write_images()
for name, content in [("decoded.json", decoded()), ("resized.json", resized())]:
    (FOLDER / name).write_text(json.dumps(content, indent=0) + "\n")
