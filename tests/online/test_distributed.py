# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Two processes: each plays its own episodes, however long they are, and both learn from all of them together."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import trl_vlmq
from trl_vlmq.shards import EpisodeShards, read_shard


sys.path.insert(0, str(Path(__file__).parent))
from vllm_loopback import LoopbackVLLM  # noqa: E402


DDP = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ZERO = ["-m", "accelerate.commands.launch", "--use_deepspeed", "--zero3_init_flag", "false", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        "--zero3_save_16bit_model", "true"]  # fmt: skip
FSDP = ["-m", "accelerate.commands.launch", "--config_file",
        str(Path(trl_vlmq.__file__).parents[1] / "examples" / "accelerate_configs" / "fsdp2.yaml")]  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.fixture
def start(base_folder):
    """`start(launcher, folder, *argv)`: lamp.py to its end, whatever that is."""

    def start(launcher: list[str], folder: Path, *argv: str) -> subprocess.CompletedProcess:
        script = str(Path(__file__).with_name("lamp.py"))
        return subprocess.run(
            [sys.executable, *launcher, script, "--base", base_folder, "--output_dir", str(folder), *argv],
            env=os.environ | {"PYTHONPATH": str(Path(trl_vlmq.__file__).parents[1])},
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip

    return start


@pytest.fixture
def run(start):
    """`run(launcher, folder, *argv)`: lamp.py to its good end -> what each process reports."""

    def run(launcher: list[str], folder: Path, *argv: str) -> list[dict]:
        done = start(launcher, folder, *argv)
        assert done.returncode == 0, done.stderr[-4000:]
        return [json.loads(path.read_text()) for path in sorted(folder.glob("result-*.json"))]

    return run


def episodes(folder: Path, rank: int, processes: int) -> list[list[dict]]:
    """Of each round, the rows that a process reads."""
    shards = EpisodeShards(folder / "episodes", rank, processes)
    return [[row for path in shards.dealt(number) for row in read_shard(path).to_list()] for number in shards.rounds()]


def assert_each_played_its_own(folder: Path, results: list[dict]) -> None:
    assert len(results) == 2 and [r["step"] for r in results] == [16, 16]
    long, short = (episodes(folder, rank, 2) for rank in range(2))
    assert len(long) == len(short) == 3
    for number, (one, other) in enumerate(zip(long, short, strict=True)):
        for rank, rows in enumerate((one, other)):
            ids = [row["episode_id"] for row in rows if row["turn"] == 0]
            assert ids == [f"online-{number:06d}-{rank:04d}-{i:06d}" for i in range(12)]
        assert max(row["turn"] for row in other) <= 1 < max(row["turn"] for row in one)  # unequal lengths, no deadlock
        # other seeds, other pictures
        assert [r["images"] for r in one if r["turn"] == 0] != [r["images"] for r in other if r["turn"] == 0]
    logged = results[0]["rounds"]
    assert [r["rollout_episodes"] for r in logged] == [24] * 3
    for r, one, other in zip(logged, long, short, strict=True):
        assert r["rollout_length"] == pytest.approx((len(one) + len(other)) / 24)
    assert [r["online_turns"] for r in results] == [sum(map(len, long)), sum(map(len, short))]


def assert_the_mean_of_the_last_weights_was_saved(folder: Path) -> None:
    for file in ("adapter_model.safetensors", "critic.safetensors"):
        steps = [load_file(folder / f"checkpoint-{step}" / file) for step in (14, 15, 16)]
        names = [name for name in steps[0] if not name.startswith("target.")]
        assert names
        saved = load_file(folder / file)
        for name in names:
            of_steps = torch.stack([weights[name] for weights in steps])
            torch.testing.assert_close(saved[name], of_steps.mean(0), rtol=1e-5, atol=1e-7)
        assert any(not torch.equal(saved[name], steps[-1][name]) for name in names)


def test_under_ddp_every_process_plays_its_own_and_the_weights_stay_the_same(run, tmp_path):
    results = run(DDP, tmp_path / "run", "--uneven", "--save_steps", "1")
    assert_the_mean_of_the_last_weights_was_saved(tmp_path / "run")
    assert_each_played_its_own(tmp_path / "run", results)
    for name in ("weights", "optimizer", "filter"):
        assert results[0][name] == results[1][name], name


def test_another_number_of_processes_goes_on_with_all_episodes(run, tmp_path):
    run(DDP, tmp_path / "run", "--epochs", "2")
    played = sum(len(rows) for rank in range(2) for rows in episodes(tmp_path / "run", rank, 2)[:1])
    (tmp_path / "run" / "result-1.json").unlink()
    (alone,) = run([], tmp_path / "run", "--resume", "--epochs", "4")
    own = EpisodeShards(tmp_path / "run" / "episodes")
    later = sum(len(read_shard(path)) for number in own.rounds()[1:] for path in own.dealt(number))
    assert len(own.rounds()) >= 3 and alone["online_turns"] == played + later


def test_under_zero_3_processes_do_not_wait_for_each_others_episodes(run, tmp_path):
    pytest.importorskip("deepspeed")
    results = run([*ZERO, "--zero_stage", "3"], tmp_path / "run", "--uneven", "--curve", "--save_steps", "1")
    assert [[point[0] for point in r["curve"]] for r in results] == [[0, 8, 16], []]  # the first process played
    assert_each_played_its_own(tmp_path / "run", results)
    assert_the_mean_of_the_last_weights_was_saved(tmp_path / "run")


def test_under_fsdp2_processes_do_not_wait_for_each_others_episodes(run, tmp_path):
    results = run(FSDP, tmp_path / "run", "--uneven", "--curve", "--save_steps", "1")
    assert [[point[0] for point in r["curve"]] for r in results] == [[0, 8, 16], []]
    assert_each_played_its_own(tmp_path / "run", results)
    assert_the_mean_of_the_last_weights_was_saved(tmp_path / "run")


@pytest.mark.parametrize("launcher", [[*ZERO, "--zero_stage", "3"], FSDP], ids=["zero 3", "fsdp2"])
def test_a_server_is_given_the_whole_adapter_of_weights_that_are_sharded(run, tmp_path, base_folder, launcher):
    if "--use_deepspeed" in launcher:
        pytest.importorskip("deepspeed")
    server = LoopbackVLLM(base_folder)
    results = run(launcher, tmp_path / "run", "--uneven", "--save_steps", "8", "--vllm", server.url)
    server.shutdown()
    server.server_close()
    assert_each_played_its_own(tmp_path / "run", results)
    assert len(server.loaded) == 4 and len(server.adapters) == 1 and server.requests
    # The second round is played after 8 steps, of which a checkpoint was saved.
    saved = load_file(tmp_path / "run" / "checkpoint-8" / "adapter_model.safetensors")
    loaded = {name.replace(".default.", "."): weight for name, weight in server.loaded[2].items()}
    assert saved and loaded.keys() == saved.keys()
    for name, weight in saved.items():
        torch.testing.assert_close(loaded[name], weight, rtol=0, atol=0)


def test_zero_3_that_would_save_empty_adapters_is_refused(start, tmp_path):
    pytest.importorskip("deepspeed")
    done = start([*ZERO[:-1], "false", "--zero_stage", "3"], tmp_path / "run")
    assert done.returncode != 0
    assert "adapters would be saved empty. Set `zero3_save_16bit_model: true`" in done.stderr


def test_the_hooks_of_zero_3_that_we_take_off_and_put_on_again_are_where_trl_keeps_them():
    from trl.models.utils import add_hooks, remove_hooks

    assert callable(add_hooks) and callable(remove_hooks)
