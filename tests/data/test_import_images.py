# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Images of logs arrive as they were, however they are given."""

import base64
from io import BytesIO

import PIL.Image
import pytest


LINE = {"episode_id": "a", "turn": 0, "prompt": "p", "completion": "ok", "reward": 1}


@pytest.mark.parametrize(
    "form", ["path", "absolute", "file", "base64", "data", "bytes", "dict", "palette", "cmyk", "gif", "short"]
)
def test_an_image_may_be_given_in_many_ways(log_folder, form):
    path = log_folder.folder / log_folder.image("shots a.png", 153)
    encoded = base64.b64encode(path.read_bytes()).decode()
    value = {
        "path": "shots a.png",
        "absolute": str(path),
        "file": path.as_uri(),
        "base64": encoded,
        "data": f"data:image/png;base64,{encoded}",
        "bytes": {"bytes": encoded, "path": None},
        "dict": {"bytes": None, "path": str(path)},
        "palette": log_folder.image("p.png", 153, "P"),
        "cmyk": log_folder.image("c.jpg", 153, "CMYK"),
        "gif": log_folder.image("g.gif", 153, "L"),
        "short": log_folder.image("R0lGOD.png", 153),
    }[form]
    log_folder.run(LINE | {"image": value})
    (picture,) = log_folder.episodes()["a"].turns[0].images
    assert picture.size == (6, 4)
    assert picture.mode in ("RGB", "L")
    assert abs(picture.convert("L").getpixel((0, 0)) - 153) <= 2


def test_a_jpeg_stays_the_file_it_was(log_folder):
    picture = PIL.Image.effect_noise((64, 64), 80).convert("RGB")
    picture.save(log_folder.folder / "a.jpg", quality=60)
    log_folder.run(LINE | {"image": "a.jpg"})
    decoded = PIL.Image.open(BytesIO((log_folder.folder / "a.jpg").read_bytes()))
    assert log_folder.episodes()["a"].turns[0].images[0].tobytes() == decoded.tobytes()


def test_a_jpeg_in_base64_is_not_taken_for_a_path(log_folder):
    log_folder.image("a.jpg", 90)
    encoded = base64.b64encode((log_folder.folder / "a.jpg").read_bytes()).decode()
    assert encoded.startswith("/9j/")
    log_folder.run(LINE | {"image": encoded})
    (picture,) = log_folder.episodes()["a"].turns[0].images
    assert picture.getpixel((0, 0)) == (90, 90, 90)
