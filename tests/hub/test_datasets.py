# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Episodes on the Hub: uploaded by the import, loaded by their id, trained on."""

import json

import pytest
from datasets import Dataset

from trl_vlmq import load_episodes


MAIN = "from trl_vlmq.cli.main import main\nresult = main(line.split())"


@pytest.fixture
def pushed(client, hub, tmp_path) -> Dataset:
    """`ada/logs`, imported from JSONL by the command and uploaded."""
    lines = [
        {
            "episode_id": i,
            "prompt": f"Go {word}.",
            "completion": word,
            "reward": float(word == "left"),
            "terminated": True,
        }
        for i, word in enumerate(("left", "right") * 3)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = client(MAIN, line="import log.jsonl --output e.parquet --push_to_hub ada/logs --overwrite")
    assert done["error"] is None and done["result"] == 0 and "Pushed   ada/logs" in done["out"], done
    return load_episodes(tmp_path / "e.parquet")


def test_an_import_is_uploaded_privately_and_loads_by_its_id(pushed, hub, client):
    stored = hub.repositories["dataset", "ada/logs"]
    assert stored.private and any(path.endswith(".parquet") for path in stored.files)
    code = """
from trl_vlmq import load_episodes
dataset = load_episodes("ada/logs")
result = [dataset["completion"][:], dataset["reward"][:], dataset["prompt"][:], dataset.column_names]
"""
    done = client(code)
    assert done["error"] is None, done
    columns = ("completion", "reward", "prompt")
    assert done["result"] == [*(pushed[name][:] for name in columns), pushed.column_names]


def test_the_command_trains_on_episodes_of_the_hub(pushed, client, tmp_path):
    line = "train --dataset ada/logs --output_dir out --max_steps 1 --eval_share 0 --save_strategy no --use_cpu"
    done = client(MAIN, line=line + " --report_to none")
    assert done["error"] is None and done["result"] == 0, done
    assert (tmp_path / "out" / "critic.safetensors").is_file()


@pytest.mark.parametrize(
    ("repo", "token"),
    [("ada/none", "hf_ada"), ("ada/hidden", "hf_bob"), ("ada/hidden", "hf_wrong"), ("ada/hidden", "")],
)
def test_episodes_that_the_hub_does_not_give_are_named(pushed, hub, client, repo, token):
    hub.repositories["dataset", "ada/hidden"] = hub.repositories["dataset", "ada/logs"]  # but in no cache
    done = client("from trl_vlmq import load_episodes\nload_episodes(repo)", repo=repo, token=token)
    assert "FileNotFoundError" in done["types"] and repo in done["error"], done


def test_a_refused_upload_keeps_the_import(client, tmp_path):
    (tmp_path / "log.jsonl").write_text('{"episode_id": 1, "prompt": "Go.", "completion": "go", "reward": 1}\n')
    done = client(MAIN, line="import log.jsonl --output e.parquet --push_to_hub bob/logs")
    error = done["err"].splitlines()[-1]
    assert done["result"] == 1 and error.startswith("error: Uploading the episodes to bob/logs failed: "), done
    assert "The episodes lie whole in e.parquet" in error
    assert load_episodes(tmp_path / "e.parquet")["reward"][:] == [1.0]
