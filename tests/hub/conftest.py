# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A Hub on this machine, a user's process that knows no other, and a trained agent to upload."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


sys.path.insert(0, str(Path(__file__).parent))

from loopback import LoopbackHub  # noqa: E402

import trl_vlmq  # noqa: E402
from trl_vlmq import Episode, Turn, episodes_to_dataset, save_episodes  # noqa: E402


TOKENS = {"hf_ada": "ada", "hf_bob": "bob"}


class Client:
    """`client(code, folder, token=...)` -> `{"error", "types", "result", "out", "err"}`; `result` is what the code calls
    so, anything that JSON can say."""

    def __init__(self, endpoint: str, home: Path):
        environment = os.environ | {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "PYTHONPATH": str(Path(trl_vlmq.__file__).parents[1]),
        }
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("client.py")],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, code: str, folder: Path, token: str = "hf_ada", **values: Any) -> dict[str, Any]:
        names = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        request = {"code": names + code, "folder": str(folder), "environment": {"HF_TOKEN": token}}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@pytest.fixture(scope="session")
def session_hub() -> Iterator[LoopbackHub]:
    hub = LoopbackHub(TOKENS)
    yield hub
    hub.shutdown()
    hub.server_close()


@pytest.fixture
def hub(session_hub) -> Iterator[LoopbackHub]:
    """The Hub; users are `ada` and `bob`, with the tokens `hf_ada` and `hf_bob`."""
    yield session_hub
    session_hub.broken.clear()


@pytest.fixture(scope="session")
def session_client(session_hub, tmp_path_factory) -> Iterator[Client]:
    client = Client(session_hub.endpoint, tmp_path_factory.mktemp("home"))
    yield client
    client.process.kill()
    client.process.wait()


@pytest.fixture
def client(session_client, tmp_path) -> Callable[..., dict[str, Any]]:
    """`client(code, **values)`: Python in the user's process, in a folder of this test, as `ada`."""
    return lambda code, **values: session_client(code, values.pop("folder", tmp_path), **values)


@pytest.fixture(scope="session")
def logs(tmp_path_factory) -> str:
    """A Parquet file of six episodes of one turn, without pictures."""
    turns = [
        Turn([{"role": "user", "content": [{"type": "text", "text": f"Go {word}."}]}], [], word, reward, True, False)
        for word, reward in zip(("left", "right") * 3, (1.0, 0.0) * 3, strict=True)
    ]
    path = tmp_path_factory.mktemp("logs") / "episodes.parquet"
    save_episodes(episodes_to_dataset(Episode(f"e{i}", [turn]) for i, turn in enumerate(turns)), path)
    return str(path)


TRAIN = """
from peft import LoraConfig
from trl_vlmq import AFSFTConfig, AFSFTTrainer, load_episodes

settings = {
    "output_dir": "agent", "max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "target_tau": 0.2,
    "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "use_cpu": True,
} | arguments
trainer = AFSFTTrainer(
    "tiny-babyai", AFSFTConfig(**settings), load_episodes(logs), peft_config=LoraConfig(r=4, lora_alpha=8)
)
trainer.train()
"""


@pytest.fixture
def train(client, logs) -> Callable[..., dict[str, Any]]:
    """`train(then, **arguments)`: trains the embedded model in the user's process, into the folder `agent`; then it runs
    more code, to which it is `trainer`. `arguments` are those of `AFSFTConfig`."""

    def run(then: str, token: str = "hf_ada", **arguments: Any) -> dict[str, Any]:
        return client(TRAIN + then, token=token, logs=logs, arguments=arguments)

    return run


@pytest.fixture(scope="session")
def agent(session_hub, session_client, logs, tmp_path_factory) -> Path:
    """An agent that ada has trained, here and, with its card, on the Hub as `ada/agent`."""
    folder = tmp_path_factory.mktemp("ada")
    save = "trainer.push_to_hub(dataset_name='ada/logs', tags='mine')"
    done = session_client(TRAIN + save, folder, logs=logs, arguments={"hub_model_id": "ada/agent"})
    assert done["error"] is None, done
    return folder / "agent"
