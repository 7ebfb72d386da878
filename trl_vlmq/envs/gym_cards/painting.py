# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Pictures of cards and number lines, drawn here (no image files), legible from 112 pixels a side on."""

from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .cards import RANKS, Card


TABLE = (31, 92, 70)
PAPER = (250, 249, 244)
INK = ((24, 26, 32), (196, 30, 42))  # of clubs and spades, of diamonds and hearts
BACK = (52, 84, 150)
SMALLEST = 84  # pixels a side

_OVERSAMPLING = 4


def check_image_size(image_size: int) -> None:
    """
    Raises:
        ValueError: cards would not be legible.
    """
    if image_size < SMALLEST:
        raise ValueError(f"image_size={image_size} must be at least {SMALLEST} pixels: cards are not legible below.")


class TablePainter:
    """
    Paints cards on a green table.

    Args:
        image_size (`int`):
            Pixels per side.
    """

    def __init__(self, image_size: int):
        check_image_size(image_size)
        self.image_size = image_size
        self._table = np.empty((image_size, image_size, 3), np.uint8)
        self._table[:] = TABLE

    def empty(self) -> np.ndarray:
        """uint8 [image_size, image_size, 3], a new array."""
        return self._table.copy()

    def lay(
        self, image: np.ndarray, cards: list[Card | None], top: float, columns: int, bottom: float | None = None
    ) -> None:
        """
        Lays cards side by side, in as many rows as it takes.

        Args:
            image (`numpy.ndarray`):
                The table, changed in place.
            cards (`list[Card | None]`):
                From left to right, top to bottom; `None` is a card that lies face down.
            top (`float`):
                Upper edge of the first row, as a share of the image's height.
            columns (`int`):
                Cards that fit into a row. Where rows would pass `bottom`, cards overlap instead: the upper left part
                with the rank stays visible.
            bottom (`float`, *optional*):
                Where the last row has to end.
        """
        pitch = self.image_size / columns
        width = round(0.92 * pitch)
        height = round(1.4 * width)
        row_pitch = height + max(1, round(0.08 * pitch))
        if bottom is not None:
            rows = max(1, int(((bottom - top) * self.image_size + row_pitch - height) // row_pitch))
            columns = max(columns, -(-len(cards) // rows))
        step = min(pitch, (self.image_size - width) / max(1, columns - 1))
        margin = round((pitch - width) / 2)
        for i, card in enumerate(cards):
            row, column = divmod(i, columns)
            left = min(margin + round(column * step), self.image_size - width)
            upper = round(top * self.image_size) + row * row_pitch
            image[upper : upper + height, left : left + width] = card_picture(card, width)


@lru_cache(maxsize=1024)
def card_picture(card: Card | None, width: int) -> np.ndarray:
    """
    Args:
        card (`Card`, *optional*):
            `None` is the back of a card.
        width (`int`):
            Pixels; the height is 1.4 times that.

    Returns:
        uint8 [height, width, 3], read-only, with the table behind its round corners.
    """
    scale = _OVERSAMPLING
    height = round(1.4 * width)
    size = (width * scale, height * scale)
    shape = Image.new("L", size, 0)
    ImageDraw.Draw(shape).rounded_rectangle((0, 0, size[0] - 1, size[1] - 1), radius=0.12 * size[0], fill=255)
    face = Image.new("RGB", size, PAPER if card is not None else BACK)
    if card is None:
        draw = ImageDraw.Draw(face)
        for x in range(-size[1], size[0], max(4, size[0] // 5)):
            draw.line((x, 0, x + size[1], size[1]), fill=PAPER, width=max(1, size[0] // 24))
    else:
        ink = INK[card.suit in (1, 2)]
        rank = glyph(RANKS[card.rank - 1], round(0.84 * size[0]), round(0.52 * size[1]))
        face.paste(ink, (round(0.08 * size[0]), round(0.06 * size[1])), rank)
        pip = round(0.42 * size[0])
        face.paste(ink, ((size[0] - pip) // 2, round(0.64 * size[1])), suit_shape(card.suit, pip))
    table = Image.new("RGB", size, TABLE)
    table.paste(face, mask=shape)
    return _read_only(table.resize((width, height), Image.Resampling.BOX))


def glyph(text: str, width: int, height: int) -> Image.Image:
    """Text as large as fits into a box, in its middle, squeezed if need be: a mask of the box's size."""
    font = ImageFont.load_default(height)
    left, top, right, bottom = font.getbbox(text, stroke_width=height // 22)
    drawn = Image.new("L", (right - left, bottom - top), 0)
    ImageDraw.Draw(drawn).text((-left, -top), text, fill=255, font=font, stroke_width=height // 22)
    drawn = drawn.resize((min(width, round(drawn.width * height / drawn.height)), height), Image.Resampling.LANCZOS)
    box = Image.new("L", (width, height), 0)
    box.paste(drawn, ((width - drawn.width) // 2, 0))
    return box


def suit_shape(suit: int, side: int) -> Image.Image:
    """The symbol of a suit: a square mask."""
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)

    def circle(x: float, y: float, radius: float) -> None:
        draw.ellipse([side * value for value in (x - radius, y - radius, x + radius, y + radius)], fill=255)

    def polygon(*points: tuple[float, float]) -> None:
        draw.polygon([(side * x, side * y) for x, y in points], fill=255)

    if suit == 1:
        polygon((0.5, 0.0), (0.9, 0.5), (0.5, 1.0), (0.1, 0.5))
    elif suit == 2:
        circle(0.27, 0.29, 0.26)
        circle(0.73, 0.29, 0.26)
        polygon((0.03, 0.42), (0.97, 0.42), (0.5, 1.0))
    elif suit == 3:
        circle(0.27, 0.58, 0.25)
        circle(0.73, 0.58, 0.25)
        polygon((0.5, 0.0), (0.98, 0.5), (0.02, 0.5))
        polygon((0.5, 0.5), (0.7, 1.0), (0.3, 1.0))
    else:
        circle(0.5, 0.24, 0.23)
        circle(0.24, 0.6, 0.23)
        circle(0.76, 0.6, 0.23)
        polygon((0.5, 0.3), (0.7, 1.0), (0.3, 1.0))
    return mask


@lru_cache(maxsize=1024)
def paint_number_line(position: int, target: int, last: int, image_size: int) -> np.ndarray:
    """
    Two numbers in large print, and the line from 0 to `last` with both of them on it.

    Returns:
        uint8 [image_size, image_size, 3], read-only.
    """
    check_image_size(image_size)
    side = image_size * _OVERSAMPLING
    image = Image.new("RGB", (side, side), PAPER)
    draw = ImageDraw.Draw(image)
    red, blue, black = INK[1], BACK, INK[0]
    for row, (label, number, color) in enumerate((("Target", target, red), ("Current", position, blue))):
        upper = round((0.06 + 0.3 * row) * side)
        image.paste(color, (round(0.05 * side), upper), glyph(label, round(0.5 * side), round(0.16 * side)))
        image.paste(color, (round(0.62 * side), upper), glyph(str(number), round(0.3 * side), round(0.22 * side)))

    def x(number: int) -> float:
        return side * (0.08 + 0.84 * number / last)

    line = 0.76 * side
    draw.line((x(0), line, x(last), line), fill=black, width=side // 60)
    for number in range(last + 1):
        draw.line((x(number), line - 0.03 * side, x(number), line + 0.03 * side), fill=black, width=side // 80)
        digit = glyph(str(number), round(0.08 * side), round(0.09 * side))
        image.paste(black, (round(x(number) - 0.04 * side), round(line + 0.08 * side)), digit)
    radius = 0.06 * side
    draw.ellipse((x(target) - radius, line - radius, x(target) + radius, line + radius), outline=red, width=side // 40)
    radius = 0.035 * side
    draw.ellipse((x(position) - radius, line - radius, x(position) + radius, line + radius), fill=blue)
    return _read_only(image.resize((image_size, image_size), Image.Resampling.BOX))


def _read_only(image: Image.Image) -> np.ndarray:
    picture = np.array(image)
    picture.flags.writeable = False
    return picture
