# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Play on a vLLM server: it acts with the adapter of the moment, and what it says is what this process would have said."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoProcessor

from trl_vlmq import VLLMClient, VLLMError, VLLMPolicy, VLMPolicy, load_episodes, play_episodes
from trl_vlmq.backbones import load_backbone
from trl_vlmq.envs import PromptBuilder
from trl_vlmq.policies import Situation
from trl_vlmq.vllm_policy import check_adapter


sys.path.insert(0, str(Path(__file__).parent))
from vllm_loopback import LoopbackVLLM  # noqa: E402


@pytest.fixture
def serve(base_folder) -> Callable[..., LoopbackVLLM]:
    """`serve(base=..., **options)`: a server that is closed after the test."""
    servers = []

    def start(base: str = base_folder, **options) -> LoopbackVLLM:
        servers.append(LoopbackVLLM(base, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def with_adapter(server: LoopbackVLLM, trainer) -> VLLMClient:
    """A client of the server, which holds what the trainer has saved as `"agent"`."""
    trainer.save_model()  # the critic lies in the same folder
    client = VLLMClient(server.url + "/v1/")
    client.load_adapter("agent", trainer.args.output_dir)
    return client


@pytest.fixture
def situations(lamp) -> list[Situation]:
    """First turns of some episodes."""

    def one(seed):
        env = lamp()
        return Situation(seed, 0, *PromptBuilder().build(env.reset(seed=seed)[0]), env)

    return [one(seed) for seed in range(8)]


def played_by(folder: Path) -> list[dict]:
    """The episodes that a run played."""
    return load_episodes(folder / "episodes").to_list()


def trained(make_trainer, make_callback, folder: str, **arguments):
    """A run with play whose actions are greedy but for epsilon, so that who acts makes no difference."""
    trainer = make_trainer(make_callback(temperature=0.0, **arguments), folder=folder)
    trainer.train()
    return trainer


def test_a_run_that_plays_on_the_server_is_the_run_that_plays_here(serve, make_trainer, make_callback):
    server = serve()
    there = trained(make_trainer, make_callback, "there", vllm=VLLMClient(server.url))
    here = trained(make_trainer, make_callback, "here")
    played = played_by(Path(there.args.output_dir))
    assert played and played == played_by(Path(here.args.output_dir))
    weights = dict(here.model.named_parameters())
    assert all(torch.equal(weight, weights[name]) for name, weight in there.model.named_parameters())
    assert len(server.requests) > 10  # it was the server that acted


def test_each_round_is_played_with_the_weights_of_the_moment_and_the_server_keeps_one_adapter(
    serve, make_trainer, make_callback
):
    server = serve()
    trainer = trained(make_trainer, make_callback, "run", vllm=VLLMClient(server.url))
    check, first, second, third = server.loaded  # before training, then three rounds
    assert all(torch.equal(check[name], first[name]) for name in check)
    for before, after in ((first, second), (second, third)):
        assert any(not torch.equal(before[name], after[name]) for name in before)
    assert len(server.adapters) == 1 and len(list(Path(trainer.args.output_dir, "vllm").iterdir())) == 1
    assert {request["model"] for request in server.requests} >= set(server.adapters)


def test_a_run_that_goes_on_has_the_server_forget_what_it_left_there(serve, make_trainer, make_callback):
    server = serve()
    for epochs in (1, 2):
        trainer = make_trainer(
            make_callback(vllm=VLLMClient(server.url)), num_train_epochs=epochs, save_strategy="epoch"
        )
        trainer.train(resume_from_checkpoint=epochs > 1 or None)
    assert len(server.adapters) == 1


def test_a_trained_adapter_acts_there_as_here(serve, make_trainer, situations):
    trainer = make_trainer(learning_rate=5e-2)
    trainer.train()
    client = with_adapter(serve(), trainer)
    backbone = trainer.model.backbone
    here = VLMPolicy(backbone, max_new_tokens=12).act(situations)
    there = VLLMPolicy(backbone, client, "agent", max_new_tokens=12).act(situations)
    assert [(a.ids, a.text, a.stopped) for a in there] == [(a.ids, a.text, a.stopped) for a in here]
    np.testing.assert_allclose([a.logp for a in there], [a.logp for a in here], rtol=1e-3, atol=1e-3)


def test_an_action_depends_on_its_episode_and_turn_and_not_on_who_is_asked_beside_it(serve, make_trainer, lamp):
    trainer = make_trainer()
    client = with_adapter(serve(), trainer)
    policy = VLLMPolicy(trainer.model.backbone, client, "agent", temperature=1.0, max_new_tokens=4)
    alone, four = ([e.turns[0].completion_ids for e in play_episodes(lamp, policy, 8, num_envs=n)] for n in (1, 4))
    assert alone == four and len({tuple(ids) for ids in alone}) > 1


def test_tokens_that_no_action_may_hold_are_never_sampled(serve, make_trainer, situations, tiny_vlm, tmp_path):
    make, processor = tiny_vlm
    trainer, model = make_trainer(), make()
    backbone = trainer.model.backbone
    (image,) = backbone.image_token_ids
    state = backbone.states(backbone.collate([backbone.encode(situations[0].prompt, situations[0].images)]), 1)[0, 0]
    with torch.no_grad():
        model.lm_head.weight[image] = 10 * state / state.norm()  # this model wants to write an image
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    client = with_adapter(serve(str(tmp_path / "other")), trainer)

    def first_token(**settings) -> int:
        policy = VLLMPolicy(backbone, client, "agent", max_new_tokens=1, **settings)
        return policy.act(situations[:1])[0].ids[0]

    assert first_token(mask_invalid_tokens=False) == image
    assert first_token() != image


def test_answers_that_are_lost_on_their_way_are_asked_for_again(serve, make_trainer, make_callback):
    server = serve()
    server.drop = 2
    lossy = trained(make_trainer, make_callback, "lossy", vllm=VLLMClient(server.url))
    assert server.drop == 0
    whole = trained(make_trainer, make_callback, "whole", vllm=VLLMClient(server.url))
    assert played_by(Path(lossy.args.output_dir)) == played_by(Path(whole.args.output_dir))


def train_with(make_trainer, make_callback, client, match: str, error=VLLMError, **arguments) -> None:
    trainer = make_trainer(make_callback(vllm=client, start_epoch=2), **arguments)
    with pytest.raises(error, match=match):
        trainer.train()
    assert trainer.state.global_step == 0  # and not in the third epoch


def test_no_server_is_said_before_the_first_step(serve, make_trainer, make_callback):
    server = serve()
    server.shutdown()
    server.server_close()
    train_with(make_trainer, make_callback, VLLMClient(server.url), "did not answer.*vllm serve MODEL --enable-lora")


def test_a_server_that_takes_no_adapters_is_said_before_the_first_step(serve, make_trainer, make_callback):
    client = VLLMClient(serve(runtime_lora=False).url)
    train_with(make_trainer, make_callback, client, "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True")


def test_a_wrong_key_is_said_before_the_first_step(serve, make_trainer, make_callback):
    server = serve(api_key="secret")
    train_with(make_trainer, make_callback, VLLMClient(server.url, api_key="guess"), "401.*Unauthorized.*api_key")
    assert VLLMClient(server.url, api_key="secret").models()


def test_another_prompt_there_than_here_is_said_before_the_first_step(
    serve, make_trainer, make_callback, base_folder, tiny_vlm, tmp_path
):
    make, _ = tiny_vlm
    make().save_pretrained(tmp_path / "other")
    processor = AutoProcessor.from_pretrained(base_folder)
    processor.chat_template = processor.chat_template.replace("<end>", "<end><end>")
    processor.save_pretrained(tmp_path / "other")
    client = VLLMClient(serve(str(tmp_path / "other")).url)
    train_with(make_trainer, make_callback, client, "reads a prompt otherwise.*apart from token")


def test_what_a_server_cannot_be_given_is_refused(serve, make_trainer, make_callback, base_folder):
    client = VLLMClient(serve().url)
    train_with(make_trainer, make_callback, client, "pass a peft_config", ValueError, lora=False)
    with pytest.raises(ValueError, match="explore_over"):
        make_callback(vllm=client, explore_over="tokens")
    backbone = load_backbone(base_folder)
    config = LoraConfig(r=2, target_modules=backbone.lora_target_modules, modules_to_save=["lm_head"])
    backbone.model = get_peft_model(backbone.model, config)
    with pytest.raises(ValueError, match="modules_to_save"):
        check_adapter(backbone)


def test_an_adapter_that_is_not_there_is_named_in_the_servers_words(serve, tmp_path):
    client = VLLMClient(serve().url)
    with pytest.raises(VLLMError, match="cannot be found at"):
        client.load_adapter("agent", str(tmp_path / "nowhere"))


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="http://"):
        VLLMClient("localhost:8000")
    with pytest.raises(ValueError, match="timeout"):
        VLLMClient(timeout=0)
