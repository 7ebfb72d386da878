# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The 200 example lines become episodes that load, train and come back from a dataset repository."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import datasets
import PIL.Image
import pyarrow.parquet as pq
import pytest

import trl_vlmq
from trl_vlmq import AFSFTConfig, AFSFTTrainer, FieldMapping, import_logs, load_episodes, validate_episodes
from trl_vlmq.cli.import_logs import main
from trl_vlmq.columns import FEATURES
from trl_vlmq.episodes import dataset_to_episodes


EXAMPLES = Path(trl_vlmq.__file__).parent.parent / "examples"
DATA = EXAMPLES / "data"
LOGS = str(DATA / "logs.jsonl")
OPTIONS = ["--mapping", str(DATA / "mapping.yaml"), "--images", str(DATA / "screenshots")]

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="needs the example logs of the repository")


@pytest.fixture(scope="module")
def imported(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("imported") / "episodes.parquet"
    mapping = FieldMapping.from_yaml(DATA / "mapping.yaml")
    import_logs(LOGS, path, mapping=mapping, image_root=DATA / "screenshots")
    return path


def test_the_example_logs_come_out_as_counted_by_hand(imported):
    runs = defaultdict(list)
    for text in Path(LOGS).read_text().splitlines():
        record = json.loads(text)
        runs[str(record["run"])].append(record)
    dataset = load_episodes(imported)
    validate_episodes(dataset)
    assert dataset.features == FEATURES
    episodes = {episode.episode_id: episode for episode in dataset_to_episodes(dataset)}
    assert list(episodes) == list(runs)
    assert sum(map(len, runs.values())) == 200
    for name, run in runs.items():
        episode, cut = episodes[name], run[-1]["won"] == "timeout"
        assert [turn.completion for turn in episode.turns] == [step["reply"] for step in run[: len(run) - cut]]
        assert episode.total_reward == (1.0 if run[-1]["won"] == "yes" else 0.0)
        assert (episode.truncated, episode.terminated) == (cut, not cut)
        assert episode.behavior == run[0]["meta"]["agent"]
        seen = [turn.images[0] for turn in episode.turns] + ([episode.turns[-1].final_images[0]] if cut else [])
        for picture, step in zip(seen, run, strict=True):
            with PIL.Image.open(DATA / "screenshots" / step["screenshot"]) as shot:
                assert picture.tobytes() == shot.tobytes()

    report = json.loads(imported.with_name("episodes.parquet.report.json").read_text())
    won = sum(run[-1]["won"] == "yes" for run in runs.values())
    cut = sum(run[-1]["won"] == "timeout" for run in runs.values())
    assert report["read"] == {"lines": 200, "episodes": len(runs)}
    assert report["kept"] == {"episodes": len(runs), "turns": 200 - cut}
    assert report["dropped"] == {"episodes": 0, "reasons": []}
    assert report["ended"] == {"terminated": len(runs) - cut, "truncated": cut}
    assert report["lost_last_actions"] == cut
    assert report["success_rate"] == report["return"]["mean"] == won / len(runs)
    assert set(report["behaviors"]) == {"expert", "wrong_goal", "random"}
    assert sum(each["episodes"] for each in report["behaviors"].values()) == len(runs)


def test_an_image_of_many_turns_is_stored_once_in_a_row_group(imported):
    shots = {(DATA / "screenshots" / json.loads(line)["screenshot"]).read_bytes() for line in open(LOGS)}
    assert pq.ParquetFile(imported).num_row_groups == 1
    assert imported.stat().st_size < 1.5 * sum(map(len, shots)) + 60_000


def test_plain_datasets_reads_the_import(imported, tmp_path):
    loaded = datasets.load_dataset("parquet", data_files=str(imported), split="train", cache_dir=str(tmp_path))
    assert loaded.features == FEATURES


def test_the_example_logs_are_made_again_bit_for_bit(tmp_path):
    pytest.importorskip("minigrid")
    subprocess.run([sys.executable, str(EXAMPLES / "make_example_logs.py"), "--output_dir", str(tmp_path)], check=True)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(made) == 201
    for name, content in made.items():
        if name.suffix == ".png":  # zlib may pack differently elsewhere; the pixels must be the same
            with PIL.Image.open(tmp_path / name) as new, PIL.Image.open(DATA / name) as old:
                assert new.tobytes() == old.tobytes()
        else:
            assert content == (DATA / name).read_bytes()


def test_the_command_prints_the_report(tmp_path, capsys):
    output = tmp_path / "episodes.parquet"
    main([LOGS, *OPTIONS, "--output", str(output)])
    text = capsys.readouterr().out
    assert f"Kept     31 episodes, 186 turns -> {output}" in text
    assert "Valid    yes" in text
    assert "Behavior expert: " in text


def test_mistakes_on_the_command_line_are_one_line_and_an_exit_code(tmp_path):
    def run(*arguments: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "trl_vlmq.cli", "import", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stderr

    assert run("none.jsonl", "--output", "a.parquet") == (1, "error: There is no log file 'none.jsonl'.\n")
    code, message = run(LOGS, "--output", "a.parquet")  # without a mapping, `step` and `won` only are found
    assert (code, message.count("\n")) == (1, 1)
    assert "logs.jsonl:1: field 'prompt': is missing (the fields are run, step, user_text, screenshot" in message
    assert run("log.jsonl")[0] == 2
    assert not list(tmp_path.iterdir())


def test_a_folder_laid_out_as_a_dataset_repository_loads(imported, tmp_path):
    (tmp_path / "data").mkdir()
    load_episodes(imported).to_parquet(tmp_path / "data" / "train-00000-of-00001.parquet")
    load_episodes(imported).select([0]).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    loaded = load_episodes(tmp_path)
    assert loaded.features == FEATURES
    validate_episodes(loaded)
    assert loaded["completion"][:] == load_episodes(imported)["completion"][:]


def test_a_folder_of_imports_loads_beside_their_reports(imported, tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.parquet").write_bytes(imported.read_bytes())
        (tmp_path / f"{name}.parquet.report.json").write_bytes(
            imported.with_name(f"{imported.name}.report.json").read_bytes()
        )
    assert len(load_episodes(tmp_path)) == 2 * 186
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no Parquet file in the folder"):
        load_episodes(tmp_path / "empty")


@pytest.mark.parametrize("name", ["none.parquet", "folder/none.parquet", "a/b/c", "team/agent-logs"])
def test_what_is_nowhere_is_named(name):
    with pytest.raises(FileNotFoundError, match=name):
        load_episodes(name)


def test_the_import_trains(imported, tmp_path, tiny_vlm):
    make, processor = tiny_vlm
    args = AFSFTConfig(
        output_dir=str(tmp_path), max_steps=2, per_device_train_batch_size=2, report_to="none", use_cpu=True
    )
    trainer = AFSFTTrainer(make(), args=args, train_dataset=load_episodes(imported), processing_class=processor)
    assert trainer.train().global_step == 2
