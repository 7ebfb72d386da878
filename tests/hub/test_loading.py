# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""An agent on the Hub is found by its id: to act, to be evaluated, to be trained further, and by plain PEFT."""

import json

import pytest
import torch
from safetensors.torch import load_file

from trl_vlmq import load_backbone


ANSWER = """
import torch

def answer(model, processor):
    prompt = [{"role": "user", "content": [{"type": "text", "text": "Go left."}]}]
    text = processor.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
    with torch.no_grad():
        return model.eval()(**processor(text=[text], return_tensors="pt")).logits[0, -1].tolist()
"""


@pytest.fixture(scope="module")
def expected(agent) -> list[float]:
    """What the agent answers from the folder that was uploaded, in this process."""
    names = {}
    exec(ANSWER, names)
    backbone = load_backbone(agent)
    answer = names["answer"](backbone.model, backbone.processor)
    untrained = load_backbone("tiny-babyai")
    difference = torch.tensor(names["answer"](untrained.model, untrained.processor)) - torch.tensor(answer)
    assert difference.abs().max() > 0.1, "the adapter does nothing, so that comparisons say nothing"
    return answer


def test_the_adapter_alone_loads_in_plain_peft(agent, client, expected):
    code = """
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl_vlmq import tiny_model_path

base = AutoModelForImageTextToText.from_pretrained(tiny_model_path("tiny-babyai"))
model = PeftModel.from_pretrained(base, "ada/agent")
result = answer(model, AutoProcessor.from_pretrained("ada/agent"))
"""
    assert client(ANSWER + code)["result"] == pytest.approx(expected, abs=1e-5)


def test_the_agent_acts_by_its_id(agent, client, expected):
    code = "from trl_vlmq import load_backbone\nbackbone = load_backbone('ada/agent')\n"
    assert client(ANSWER + code + "result = answer(backbone.model, backbone.processor)")["result"] == pytest.approx(
        expected, abs=1e-5
    )


def test_training_goes_on_by_the_id_with_the_critic(agent, client, logs):
    code = """
from safetensors.torch import save_file
from trl_vlmq import AFSFTConfig, AFSFTTrainer, load_episodes

args = AFSFTConfig("further", max_steps=1, report_to="none", use_cpu=True, disable_tqdm=True, save_strategy="no")
trainer = AFSFTTrainer("ada/agent", args, load_episodes(logs))
critic, target = trainer.model.critic, trainer.model.target_critic
tensors = {f"critic.{name}": critic.per_head(name).detach().clone() for name, _ in critic.named_parameters()}
save_file(tensors | {f"target.{name}": target.per_head(name).clone() for name, _ in target.named_buffers()}, "loaded.safetensors")
trainer.train()
moved = [not torch.equal(critic.per_head(name), tensors[f"critic.{name}"]) for name, _ in critic.named_parameters()]
result = [str(Path.cwd()), all(moved)]
"""
    done = client("from pathlib import Path\nimport torch\n" + code, logs=logs)
    assert done["error"] is None, done
    folder, moved = done["result"]
    loaded, saved = load_file(f"{folder}/loaded.safetensors"), load_file(agent / "critic.safetensors")
    assert loaded.keys() == saved.keys() and all(torch.equal(loaded[name], saved[name]) for name in saved)
    assert saved["critic.down_weight"].any() and moved


def test_the_commands_train_and_evaluate_by_the_id(agent, client, logs, tmp_path):
    common = "from trl_vlmq.cli.main import main\nresult = main(line.split())"
    train = (
        f"train --model_name_or_path ada/agent --dataset {logs} --output_dir more --max_steps 1 --learning_rate 0 "
        "--target_tau 0 --eval_share 0 --save_strategy no --use_cpu --report_to none"
    )
    done = client(common, line=train)
    assert done["error"] is None and done["result"] == 0, done
    after, before = load_file(tmp_path / "more" / "critic.safetensors"), load_file(agent / "critic.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    evaluate = "evaluate --model ada/agent tiny-babyai --env trl_vlmq/Blackjack-v0 --episodes 2 --max_new_tokens 2"
    done = client(common, line=evaluate)
    assert done["error"] is None and done["result"] == 0, done
    assert "| ada/agent |" in done["out"] and "| tiny-babyai |" in done["out"]


def test_an_agent_on_the_hub_is_merged(agent, client, tmp_path, expected):
    code = """
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl_vlmq import merge_adapter

merge_adapter("ada/agent", "merged")
result = answer(AutoModelForImageTextToText.from_pretrained("merged"), AutoProcessor.from_pretrained("merged"))
"""
    assert client(ANSWER + code)["result"] == pytest.approx(expected, abs=1e-4)
    assert (tmp_path / "merged" / "critic.safetensors").read_bytes() == (agent / "critic.safetensors").read_bytes()


def test_an_adapter_without_a_processor_takes_that_of_its_base(agent, hub, client):
    client("import huggingface_hub\nhuggingface_hub.create_repo('ada/bare')")
    files = hub.files("ada/agent")
    bare = {name: files[name] for name in files if name.startswith("adapter_")}
    hub.repositories["model", "ada/bare"].commits.append(bare)
    code = "from trl_vlmq import load_backbone\nresult = type(load_backbone('ada/bare').processor).__name__"
    assert client(code)["result"] == "LlavaProcessor"


def test_a_base_that_only_its_trainer_has_is_asked_for(agent, hub, client):
    client("import huggingface_hub\nhuggingface_hub.create_repo('ada/private-base')")
    files = dict(hub.files("ada/agent"))
    config = json.loads(files["adapter_config.json"]) | {"base_model_name_or_path": "/home/ada/models/vlm"}
    files["adapter_config.json"] = json.dumps(config).encode()
    hub.repositories["model", "ada/private-base"].commits.append(files)
    code = "from trl_vlmq import load_backbone\nload_backbone('ada/private-base')"
    error = client(code)["error"]
    assert "ada/private-base was trained on /home/ada/models/vlm" in error and 'base="folder or Hub id"' in error
    done = client(code.replace("')", "', base='tiny-babyai')"))
    assert done["error"] is None, done
