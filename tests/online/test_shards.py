# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Episodes on disk: all of a file or nothing, and every process finds its own."""

import pytest
from datasets import Dataset

from trl_vlmq import BehaviorPolicy, episodes_to_dataset, play_episodes
from trl_vlmq.shards import EpisodeShards, ShardRecord, read_shard


@pytest.fixture
def played(lamp) -> Dataset:
    return episodes_to_dataset(play_episodes(lamp, BehaviorPolicy("random"), 4, seed=1))


def test_what_is_written_is_read_back(tmp_path, played):
    shards = EpisodeShards(tmp_path / "new" / "folder")
    shards.write(3, 0, played, ShardRecord(0, 5, 1))
    (path,) = shards.dealt(3)
    again = read_shard(path)
    assert again.features == played.features and again.to_list() == played.to_list()
    assert shards.own_parts(3) == [(ShardRecord(0, 5, 1), path)] and shards.rounds() == [3]


def test_a_round_of_which_every_episode_was_lost_is_a_file_as_well(tmp_path, played):
    shards = EpisodeShards(tmp_path)
    shards.write(0, 0, played.select([]), ShardRecord(0, 5, 5))
    assert len(read_shard(shards.dealt(0)[0])) == 0


def test_every_process_reads_what_it_wrote(tmp_path, played):
    several = [EpisodeShards(tmp_path, rank, 3) for rank in range(3)]
    for rank, shards in enumerate(several):
        for part in range(2):
            shards.write(0, part, played, ShardRecord(part, part + 1, 0))
        assert [path.name for path in shards.dealt(0)] == [
            f"round-000000-rank-{rank:04d}-of-0003-part-{part:04d}.parquet" for part in range(2)
        ]


@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_another_number_of_processes_shares_all_files_out(tmp_path, played, num_processes):
    for rank in range(3):
        for part in range(2):
            EpisodeShards(tmp_path, rank, 3).write(0, part, played, ShardRecord(part, part + 1, 0))
    dealt = [EpisodeShards(tmp_path, rank, num_processes).dealt(0) for rank in range(num_processes)]
    assert sorted(sum(dealt, [])) == sorted(tmp_path.glob("*.parquet"))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    if num_processes != 3:  # and nobody takes them for a start of its own
        assert EpisodeShards(tmp_path, 0, num_processes).own_parts(0) == []


def test_what_a_killed_process_left_behind_goes(tmp_path, played):
    shards = EpisodeShards(tmp_path)
    shards.write(0, 0, played, ShardRecord(0, 4, 0))
    torn = tmp_path / ".round-000000-rank-0000-of-0001-part-0001.parquet.77.tmp"
    torn.write_bytes(b"half")
    other = tmp_path / ".round-000000-rank-0001-of-0002-part-0001.parquet.78.tmp"
    other.write_bytes(b"somebody else's")
    again = EpisodeShards(tmp_path)
    assert not torn.exists() and other.exists() and len(again.dealt(0)) == 1


def test_a_damaged_file_is_named(tmp_path, played):
    shards = EpisodeShards(tmp_path)
    shards.write(0, 0, played, ShardRecord(0, 4, 0))
    (path,) = shards.dealt(0)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(
        ValueError, match=r"part-0000.parquet is damaged .*delete it and its episodes are played again"
    ):
        read_shard(path)
