# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A stranger who finds the agent on the Hub learns what it is, how good, and how to use it."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from trl_vlmq.env_record import EnvironmentRecord
from trl_vlmq.model_card import AgentFacts, build_model_card
from trl_vlmq.statistics import wilson_interval


FACTS = {
    "name": "agent", "repo_id": "user/agent", "base": "org/vlm", "is_adapter": True, "sees": True, "has_critic": True,
    "settings": {"actor_objective": "afsft", "gamma": 0.8}, "steps": 1500,
}  # fmt: skip


def blocks(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)


def test_the_metadata_names_base_dataset_library_and_success():
    low, high = wilson_interval(42, 50)
    success = {
        "policy_success_rate": 0.84, "policy_success_low": low, "policy_success_high": high, "policy_episodes": 50,
        "policy_syntax_accuracy": 0.995, "step": 1500,
    }  # fmt: skip
    card = build_model_card(
        AgentFacts(**FACTS, dataset="user/logs", env_id="trl_vlmq/Blackjack-v0", success=success, tags=["mine"])
    )
    data = ModelCard(card.content).data
    assert data.base_model == "org/vlm" and data.datasets == "user/logs" and data.library_name == "peft"
    assert data.pipeline_tag == "image-text-to-text"
    assert data.tags == ["trl_vlmq", "vlm-q-learning", "generated_from_trainer", "afsft", "mine"]
    (result,) = data.eval_results
    assert (result.dataset_type, result.metric_type, result.metric_value) == (
        "trl_vlmq/Blackjack-v0",
        "success_rate",
        0.84,
    )
    assert f"| 84.0% | {low:.1%} to {high:.1%} | 50 | 99.5% | 1500 |" in card.text
    assert "2505.03181" in card.text and "| gamma | 0.8 |" in card.text


def test_without_evaluation_the_card_claims_nothing():
    card = build_model_card(AgentFacts(**FACTS))
    assert ModelCard(card.content).data.eval_results is None
    assert "not known" in card.text and "%" not in card.text


@pytest.mark.parametrize(
    "changes", [{}, {"is_adapter": False}, {"sees": False}, {"base": None}, {"has_critic": False}]
)
def test_the_code_of_a_card_is_code(changes):
    facts = AgentFacts(**FACTS | changes, env_id="trl_vlmq/Blackjack-v0", env_kwargs={"image_size": 112})
    code = blocks(build_model_card(facts))
    for block in code:
        compile(block, "card", "exec")
    both = "\n".join(code)
    assert ("PeftModel" in both) == (facts.is_adapter and facts.base is not None)
    assert ("AFSFTTrainer" in both) == facts.has_critic
    assert "AutoModelForCausalLM" in both or facts.sees


def test_a_trainer_s_card_is_of_its_run_and_does_not_tell_where_the_base_lay(make_trainer, base_folder):
    trainer = make_trainer(max_steps=2)
    trainer.train()
    folder = Path(trainer.args.output_dir)
    EnvironmentRecord("trl_vlmq/Blackjack-v0", {"image_size": 112}).save(folder)
    trainer.state.log_history.append(
        {"policy_success_rate": 0.5, "policy_success_low": 0.4, "policy_success_high": 0.6, "policy_episodes": 80,
         "policy_syntax_accuracy": 1.0, "step": 2}
    )  # fmt: skip
    trainer.save_model()
    trainer.create_model_card(model_name="my agent", dataset_name="user/logs", tags="cards")
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "peft" and "cards" in card.data.tags and card.data.base_model is None
    assert str(Path(base_folder)) not in card.content and str(folder) not in card.content
    assert "# my agent" in card.text and "2 optimiser steps" in card.text
    assert "evaluate_policy(\"trl_vlmq/Blackjack-v0\", policy, env_kwargs={'image_size': 112})" in card.text
    assert "| 50.0% | 40.0% to 60.0% | 80 | 100.0% | 2 |" in card.text
    assert f"| learning_rate | {trainer.args.learning_rate} |" in card.text
