# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Images as logs have them -> bytes that any reader of the dataset can open."""

import base64
import binascii
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import PIL.Image
import PIL.ImageOps

from trl_vlmq.episodes import encode_image, stored_mode

from .problems import LogProblem


# How base64 of PNG, JPEG, GIF and WebP begins; "/9j/" would else be taken for an absolute path.
_BASE64_STARTS = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR")
_STORED_FORMATS = ("PNG", "JPEG", "WEBP")


class ImageReader:
    """
    Reads and checks images.

    Args:
        folder (`Path`):
            Where relative paths start.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def read(self, value: Any, field: str) -> dict[str, Any]:
        """
        Args:
            value (`Any`):
                A path, base64, a `data:` URL, or a `dict` with one of them under `bytes`, `url`, `path` or `image`.
            field (`str`):
                What the log calls the field.

        Returns:
            `dict`: `{"bytes": ..., "path": None}`; the bytes of the log, or a PNG where the format or mode is uncommon.

        Raises:
            LogProblem: If there is no such image or it does not decode.
        """
        data = self._bytes(value, field)
        try:
            return {"bytes": _checked(data), "path": None}
        except Exception as error:  # Pillow raises whatever its decoder stumbles over
            what = " ".join(str(error).split())[:120]
            cure = "store a complete PNG or JPEG file, not raw pixels"
            raise LogProblem(field, "holds an image that does not decode", cure, f"{_short(value)}: {what}") from error

    def _bytes(self, value: Any, field: str) -> bytes:
        if isinstance(value, dict):
            inner = next((value[key] for key in ("bytes", "url", "path", "image") if value.get(key) is not None), None)
            # `bytes` is base64: JSON has no other way to write them.
            return _decoded(inner, field) if value.get("bytes") is not None else self._bytes(inner, field)
        if not isinstance(value, str) or not value:
            cure = "write a path, base64, a `data:` URL, or null for no image"
            raise LogProblem(field, "holds something that is not an image", cure, _short(value))
        if value.startswith("data:"):
            return _decoded(value.partition(",")[2], field)
        if value.startswith(_BASE64_STARTS) and len(value) > 60:
            return _decoded(value, field)
        if "://" in value and not value.startswith("file://"):
            cure = "download the images first and write their paths"
            raise LogProblem(field, "holds an image on the network", cure, _short(value))
        path = unquote(urlsplit(value).path) if value.startswith("file://") else value
        try:
            return (self.folder / path).read_bytes()
        except (OSError, ValueError) as error:  # a null character, for one, is a ValueError
            cure = "correct the path, or name the folder that it starts in with `--images`"
            detail = f"{_short(value)} in the folder {str(self.folder)!r}"
            raise LogProblem(field, "names an image file that cannot be read", cure, detail) from error


def _decoded(text: Any, field: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (AttributeError, ValueError, binascii.Error) as error:
        cure = "encode the bytes of the image file with base64"
        raise LogProblem(field, "holds bytes that are not base64", cure, _short(text)) from error


@lru_cache(maxsize=64)  # the images of a history come again within a few turns
def _checked(data: bytes) -> bytes:
    with PIL.Image.open(BytesIO(data)) as image:
        image.verify()  # checksums, which loading may pass over; it leaves the image unusable
    with PIL.Image.open(BytesIO(data)) as image:
        image.load()
        if image.format in _STORED_FORMATS and stored_mode(image) is image and getattr(image, "n_frames", 1) == 1:
            return data
        return encode_image(PIL.ImageOps.exif_transpose(image))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-1]}"
