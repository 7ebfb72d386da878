# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What an agent lived through must come back from a dataset and from disk as it was."""

import datasets
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, List, Value

from trl_vlmq.columns import FEATURES, prepare_episodes
from trl_vlmq.episodes import Episode, Turn, dataset_to_episodes, episodes_to_dataset
from trl_vlmq.storage import load_episodes, save_episodes
from trl_vlmq.validation import validate_episodes


def image(seed: int, mode: str = "RGB", size: int = 16) -> PIL.Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (size, size, 4), dtype=np.uint8)
    return PIL.Image.fromarray(pixels, "RGBA").convert(mode)


def prompt(text: str, images: int = 1) -> list[dict]:
    return [
        {"role": "system", "content": [{"type": "text", "text": "Répondez en JSON."}]},
        {"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]},
    ]


def turn(index: int, **fields) -> Turn:
    defaults = {
        "prompt": prompt(f"Observation {index}"),
        "images": [image(index)],
        "completion": f'{{"action": "step {index}"}}',
        "reward": 0.25 * index,
        "terminated": False,
        "truncated": False,
    }
    return Turn(**(defaults | fields))


def every_column_used() -> list[Episode]:
    terminated = [
        turn(0, images=[image(7), image(8, "L")], prompt=prompt("two", images=2), action_is_valid=False),
        turn(1, completion="", completion_ids=[5], completion_stopped=True, action_is_valid=True),
        turn(2, completion="点击 “确定” 😀\n\t\u202e\x00", executed_action="noop", terminated=True),
    ]
    truncated = [
        turn(0, images=[], prompt=prompt("no image", images=0), completion_ids=[1, 2, 3], completion_stopped=False),
        turn(1, truncated=True, final_prompt=prompt("what came next"), final_images=[image(9, "RGBA")]),
    ]
    for each in terminated:
        each.success, each.behavior, each.env_id = True, "expert", "trl_vlmq/Blackjack-v0"
    for each in truncated:
        each.success = False
    return [Episode("won", terminated), Episode("lost", truncated)]


def comparable(episode: Episode) -> tuple:
    def value(name, given):
        if name in ("images", "final_images") and given is not None:
            return [(picture.mode, picture.size, picture.tobytes()) for picture in given]
        return given

    return episode.episode_id, [{k: value(k, v) for k, v in vars(turn).items()} for turn in episode.turns]


def test_every_field_of_every_turn_comes_back_from_disk(tmp_path):
    episodes = every_column_used()
    dataset = episodes_to_dataset(iter(episodes))
    assert dataset.features == FEATURES
    validate_episodes(dataset)
    save_episodes(dataset, tmp_path / "new folder" / "episodes.parquet")
    loaded = load_episodes(tmp_path / "new folder" / "episodes.parquet")
    assert loaded.features == FEATURES
    validate_episodes(loaded)
    expected = [comparable(episode) for episode in episodes]
    assert [comparable(episode) for episode in dataset_to_episodes(loaded)] == expected
    assert [comparable(episode) for episode in dataset_to_episodes(dataset)] == expected


def test_an_episode_tells_its_return_length_and_end():
    won, lost = every_column_used()
    assert (won.total_reward, won.length, won.terminated, won.truncated) == (0.75, 3, True, False)
    assert (won.success, won.behavior, won.env_id) == (True, "expert", "trl_vlmq/Blackjack-v0")
    assert (lost.terminated, lost.truncated, lost.success, lost.behavior) == (False, True, False, None)


def test_plain_datasets_reads_the_file_with_its_images(tmp_path):
    save_episodes(episodes_to_dataset(every_column_used()), tmp_path / "episodes.parquet")
    loaded = datasets.load_dataset("parquet", data_files=str(tmp_path / "episodes.parquet"), split="train")
    assert loaded.features["images"] == List(Image())
    assert loaded[0]["images"][0].tobytes() == image(7).tobytes()


def test_images_with_palette_or_transparency_keep_their_look():
    palette = [image(3).quantize(4), image(4).quantize(4)]
    episode = Episode("a", [turn(0, images=[one], terminated=False) for one in palette])
    loaded = next(dataset_to_episodes(episodes_to_dataset([episode])))
    for before, after in zip(palette, loaded.turns, strict=True):
        assert after.images[0].tobytes() == before.convert("RGB").tobytes()


def test_images_of_equal_bytes_but_other_shape_or_mode_stay_apart():
    flat = np.arange(48, dtype=np.uint8)
    pictures = [
        PIL.Image.fromarray(flat.reshape(2, 8, 3)),
        PIL.Image.fromarray(flat.reshape(8, 2, 3)),
        PIL.Image.fromarray(flat.reshape(4, 12)),
    ]
    episode = Episode("a", [turn(0, prompt=prompt("three", images=3), images=pictures, terminated=True)])
    loaded = next(dataset_to_episodes(episodes_to_dataset([episode]))).turns[0].images
    assert [(one.mode, one.size) for one in loaded] == [("RGB", (8, 2)), ("RGB", (2, 8)), ("L", (12, 4))]


def test_an_image_is_stored_once_however_many_rows_show_it(tmp_path):
    pictures = [image(seed, size=192) for seed in range(10)]  # more than the 1 MiB of a dictionary by default
    episodes = (
        Episode(str(i), [turn(j, images=[pictures[(i + j) % 10]], terminated=j == 9) for j in range(10)])
        for i in range(100)
    )
    dataset = episodes_to_dataset(episodes)
    assert len(dataset) == 1000
    once = sum({picture["bytes"]: len(picture["bytes"]) for row in raw_images(dataset) for picture in row}.values())
    assert once > 10 * 192 * 192 * 3  # noise does not compress
    save_episodes(dataset, tmp_path / "episodes.parquet")
    assert (tmp_path / "episodes.parquet").stat().st_size < 1.1 * once


def test_large_images_are_split_over_row_groups_that_arrow_can_read(tmp_path, monkeypatch):
    monkeypatch.setattr("trl_vlmq.storage._ROW_GROUP_BYTES", 2**20)
    episode = Episode("a", [turn(j, images=[image(j, size=64)], terminated=j == 2499) for j in range(2500)])
    save_episodes(episodes_to_dataset([episode]), tmp_path / "episodes.parquet")
    assert pq.ParquetFile(tmp_path / "episodes.parquet").num_row_groups == 3
    assert [comparable(each) for each in dataset_to_episodes(load_episodes(tmp_path / "episodes.parquet"))] == [
        comparable(episode)
    ]


def test_a_failed_save_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "episodes.parquet"
    save_episodes(episodes_to_dataset(every_column_used()), path)
    before = path.read_bytes()

    def disk_full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)
    with pytest.raises(OSError, match="No space left"):
        save_episodes(episodes_to_dataset(every_column_used()[:1]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_replaced_is_read_anew(tmp_path):
    path = tmp_path / "episodes.parquet"
    save_episodes(episodes_to_dataset(every_column_used()), path)
    assert len(load_episodes(path)) == 5
    save_episodes(episodes_to_dataset(every_column_used()[:1]), path)
    assert len(load_episodes(path)) == 3


def test_a_selection_is_saved_as_selected(tmp_path):
    dataset = episodes_to_dataset(every_column_used()).select([3, 4])
    save_episodes(dataset, tmp_path / "episodes.parquet")
    assert [episode.episode_id for episode in dataset_to_episodes(load_episodes(tmp_path / "episodes.parquet"))] == [
        "lost"
    ]


def test_an_episode_without_turns_is_refused():
    with pytest.raises(ValueError, match="Episode 'hollow' has no turns"):
        episodes_to_dataset([Episode("hollow", [])])


def test_no_episodes_make_an_empty_dataset():
    dataset = episodes_to_dataset([])
    assert len(dataset) == 0
    assert dataset.features == FEATURES


@pytest.mark.parametrize("form", ["pil", "bytes", "path", "undecoded"])
def test_images_may_be_pil_bytes_or_paths(form, tmp_path):
    image(1).save(tmp_path / "one.png")
    path = str(tmp_path / "one.png")
    given = {"pil": image(1), "path": path, "bytes": (tmp_path / "one.png").read_bytes(), "undecoded": image(1)}[form]
    dataset = sft_dataset(given)
    if form == "undecoded":
        dataset = dataset.cast_column("images", List(Image(decode=False)))
    prepared = prepare_episodes(dataset)
    assert prepared.features["images"] == List(Image())
    validate_episodes(prepared)
    save_episodes(prepared, tmp_path / "episodes.parquet")
    (tmp_path / "one.png").unlink()  # the file stands alone
    assert load_episodes(tmp_path / "episodes.parquet")[0]["images"][0].tobytes() == image(1).tobytes()


def test_an_sft_dataset_becomes_episodes_by_reward_and_terminated():
    dataset = sft_dataset(image(1)).add_column("note", ["kept"] * 4)
    prepared = prepare_episodes(dataset)
    validate_episodes(prepared)
    assert list(prepared["episode_id"]) == ["0", "0", "1", "1"]
    assert list(prepared["turn"]) == [0, 1, 0, 1]
    assert list(prepared["note"]) == ["kept"] * 4
    assert not any(prepared["truncated"])
    assert prepared[0]["prompt"][0]["content"] == [{"type": "image", "text": None}, {"type": "text", "text": "Go."}]
    assert [episode.total_reward for episode in dataset_to_episodes(prepared)] == [1.0, 5.0]
    assert prepare_episodes(prepared) is prepared


def test_messages_of_mixed_kinds_and_with_further_fields_are_taken():
    mixed = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "image", "image": None}, {"type": "text", "text": "Go.", "cache": True}],
        },
    ]
    row = {"prompt": mixed, "completion": [{"role": "assistant", "content": "ok"}], "images": [image(1)]}
    dataset = Dataset.from_list([{**row, "reward": 1, "terminated": True}], on_mixed_types="use_json")
    assert dataset.features["prompt"] != FEATURES["prompt"]
    validate_episodes(dataset)
    assert prepare_episodes(dataset)[0]["prompt"] == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "Go."}]},
    ]


def test_a_selection_of_rows_is_prepared_as_selected():
    dataset = sft_dataset(image(1)).select([3, 0, 1])
    prepared = prepare_episodes(dataset)
    assert list(prepared["reward"]) == [3.0, 0.0, 1.0]
    assert list(prepared["episode_id"]) == ["0", "1", "1"]
    validate_episodes(prepared)


def test_text_only_logs_need_no_image_column():
    dataset = sft_dataset(image(1)).remove_columns("images")
    validate_episodes(dataset)
    assert prepare_episodes(dataset)[0]["images"] == []


def test_wider_numbers_and_integer_ids_are_taken():
    dataset = episodes_to_dataset(every_column_used())
    wide = dataset.cast(Features({**FEATURES, "reward": Value("float64"), "turn": Value("int64")}))
    wide = wide.remove_columns("episode_id").add_column("episode_id", [1, 1, 1, 2, 2])
    prepared = prepare_episodes(wide)
    assert prepared.features == FEATURES
    assert [episode.episode_id for episode in dataset_to_episodes(prepared)] == ["1", "2"]


def sft_dataset(picture) -> Dataset:
    row = {
        "prompt": [{"role": "user", "content": "Go."}],
        "completion": [{"role": "assistant", "content": "ok"}],
        "images": [picture],
    }
    return Dataset.from_list([{**row, "reward": i, "terminated": i % 2 == 1} for i in range(4)])


def raw_images(dataset: Dataset) -> list[list[dict]]:
    return dataset.cast_column("images", List(Image(decode=False)))["images"]
