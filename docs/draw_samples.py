"""Draw the samples of the zoo's colour model: simple shapes, from no data set.

python -m docs.draw_samples
"""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).parents[1] / "models" / "zoo" / "cifar10-resnet" / "samples"
# Drawn large and then reduced to the size of the model's pictures, so that edges are smooth.
LARGE, SIDE = 256, 32


def _canvas(top: str, bottom: str, horizon: float) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (LARGE, LARGE), top)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, int(LARGE * horizon), LARGE, LARGE), fill=bottom)
    return image, draw


def ship() -> Image.Image:
    """Return a freighter on the sea."""
    image, draw = _canvas("#b9cfdf", "#3a6584", 0.62)
    draw.polygon([(24, 140), (236, 140), (206, 186), (54, 186)], fill="#7a2620")
    draw.rectangle((24, 132, 236, 146), fill="#2b2f38")
    draw.rectangle((60, 84, 128, 134), fill="#eeeeea")
    draw.rectangle((86, 48, 112, 86), fill="#c24b2a")
    draw.line((190, 134, 190, 40), fill="#2b2f38", width=7)
    return image


def airplane() -> Image.Image:
    """Return an airliner in the sky."""
    image, draw = _canvas("#8fbfe8", "#a9cdec", 0.75)
    draw.ellipse((26, 112, 226, 152), fill="#f2f4f6")
    draw.polygon([(110, 134), (150, 134), (92, 214), (66, 214)], fill="#ccd3da")
    draw.polygon([(126, 120), (152, 120), (118, 70), (100, 70)], fill="#dde2e7")
    draw.polygon([(34, 126), (66, 122), (48, 66), (24, 66)], fill="#b9453b")
    return image


def automobile() -> Image.Image:
    """Return a car on a road."""
    image, draw = _canvas("#d9dccf", "#7d7d7b", 0.6)
    draw.rounded_rectangle((18, 122, 238, 182), 22, fill="#b81f24")
    draw.polygon([(62, 126), (92, 78), (172, 78), (206, 126)], fill="#a01a1f")
    draw.polygon([(76, 122), (98, 88), (130, 88), (130, 122)], fill="#b8d4e2")
    draw.polygon([(138, 122), (138, 88), (166, 88), (190, 122)], fill="#b8d4e2")
    for middle in (70, 186):
        draw.ellipse((middle - 26, 156, middle + 26, 208), fill="#1d1d1f")
        draw.ellipse((middle - 12, 170, middle + 12, 194), fill="#b7b7b7")
    return image


SAMPLES = {
    "01-a-ship.png": ship,
    "02-an-airplane.png": airplane,
    "03-an-automobile.png": automobile,
}


def small(image: Image.Image) -> Image.Image:
    """Return a drawing at the size of the model's pictures."""
    softened = image.filter(ImageFilter.GaussianBlur(3))
    return softened.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    for name, draw in SAMPLES.items():
        small(draw()).save(FOLDER / name)
