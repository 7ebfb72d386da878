# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Without critic and mask, the loss is that of TRL's SFTTrainer on the same rows."""

import copy

import pytest
import torch
from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from trl_vlmq import AFSFTTrainer
from trl_vlmq.columns import prepare_episodes


@pytest.fixture(scope="module")
def dataset(slow) -> Dataset:
    return slow.make_dataset(
        [(3, "terminated"), (2, "truncated"), (3, "both"), (4, "terminated")], seed=2, images=(1, 2)
    )


@pytest.fixture
def ours(slow, lively_vlm, tiny_vlm, trainer_args, dataset):
    def build(**kwargs) -> AFSFTTrainer:
        settings = {"actor_objective": "sft", "actor_coef": 1.0, "critic_coef": 0.0, "mask_invalid_tokens": False}
        return AFSFTTrainer(
            lively_vlm(),
            trainer_args(**{**settings, "segment_length": 1, **kwargs}),
            train_dataset=dataset,
            processing_class=tiny_vlm[1],
        )

    return build


@pytest.fixture
def theirs(lively_vlm, tiny_vlm, dataset, tmp_path):
    def build(**kwargs) -> SFTTrainer:
        args = SFTConfig(
            output_dir=str(tmp_path),
            max_length=None,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            bf16=False,
            disable_tqdm=True,
            dataloader_pin_memory=False,
            logging_steps=1,
            **kwargs,
        )
        return SFTTrainer(model=lively_vlm(), args=args, train_dataset=dataset, processing_class=tiny_vlm[1])

    return build


def examples(dataset: Dataset, rows: list[int]) -> list[dict]:
    return [dataset[row] for row in rows]


@pytest.mark.parametrize("rows", [list(range(12)), [0, 5], [7]])
def test_loss_and_gradient_equal_those_of_sft_trainer(ours, theirs, dataset, rows):
    ours, theirs = ours(), theirs()
    their_batch = theirs.data_collator(examples(dataset, rows))
    our_batch = ours.data_collator([ours.train_dataset[row] for row in rows])
    assert ours.model.critic is None

    learned = [row[row != -100].tolist() for row in their_batch["labels"]]
    assert [row[row != -100].tolist() for row in our_batch["labels"]] == learned, "both learn the same tokens"
    shown = [
        ids[mask.bool()].tolist()
        for ids, mask in zip(their_batch["input_ids"], their_batch["attention_mask"], strict=True)
    ]
    given = our_batch["inputs"]
    ended = [ids[mask.bool()].tolist() for ids, mask in zip(given["input_ids"], given["attention_mask"], strict=True)]
    assert [row[:-1] for row in shown] == ended, "both read the same tokens; the last one predicts nothing"

    their_loss = theirs.compute_loss(theirs.model, their_batch)
    our_loss = ours.compute_loss(ours.model, our_batch)
    assert our_loss.item() == pytest.approx(their_loss.item(), abs=1e-5)
    assert their_loss.item() > 1, "an untrained model has something to learn"
    their_loss.backward()
    our_loss.backward()
    gradients = dict(theirs.model.named_parameters())
    for name, parameter in ours.model.model.named_parameters():
        theirs_gradient = gradients[name].grad
        if theirs_gradient is None:
            assert parameter.grad is None, name
        else:
            scale = theirs_gradient.abs().max().item()
            assert torch.allclose(parameter.grad, theirs_gradient, rtol=0, atol=1e-5 * max(1.0, scale)), name


def test_training_ends_at_the_weights_of_sft_trainer(ours, theirs):
    """Same order, same optimiser, same accumulation: whole runs agree, not only one loss."""
    common = {
        "max_steps": 5,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 3,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "optim": "sgd",
        "seed": 3,
    }
    ours, theirs = ours(**common), theirs(**common)
    start = {name: p.detach().clone() for name, p in theirs.model.named_parameters()}
    ours.train()
    theirs.train()
    for mine, other in zip(ours.state.log_history, theirs.state.log_history, strict=True):
        for name in ("loss", "grad_norm"):
            assert (name in mine) == (name in other)
            if name in mine:
                assert mine[name] == pytest.approx(other[name], rel=1e-5)
    weights = dict(theirs.model.named_parameters())
    moved = max((weights[name] - start[name]).abs().max().item() for name in weights)
    assert moved > 1e-4
    for name, parameter in ours.model.model.named_parameters():
        assert torch.allclose(parameter, weights[name], rtol=0, atol=1e-6), name


def test_the_mask_lowers_the_loss_by_the_mass_of_tokens_that_are_never_actions(slow, ours, dataset):
    """What the default does differently from SFT: log pi is renormalised over tokens an action may consist of."""
    plain, masked = ours(), ours(mask_invalid_tokens=True)
    batch = plain.data_collator([plain.train_dataset[row] for row in range(12)])
    invalid = torch.tensor(plain.model.backbone.image_token_ids)
    with torch.no_grad():
        _, logits = plain.model.backbone.forward(batch["inputs"], keep=batch["labels"].shape[1])
        mass = logits.softmax(-1)[..., invalid].sum(-1)[batch["labels"] != -100]
        difference = plain.compute_loss(plain.model, batch) - masked.compute_loss(masked.model, batch)
    assert difference.item() == pytest.approx(-(1 - mass).log().mean().item(), abs=1e-5)
    assert difference > 0


def test_prepared_rows_are_what_sft_trainer_reads(dataset):
    """The dataset both trainers got needs no conversion."""
    assert prepare_episodes(dataset) is dataset


def test_only_what_a_template_writes_after_the_stop_token_is_left_out(
    lively_vlm, tiny_vlm, trainer_args, dataset, tmp_path
):
    """ChatML-like templates end a message with a newline after the stop token. SFTTrainer learns it too; an agent has
    stopped acting by then, so that here the stop token is the last one."""
    processor = copy.deepcopy(tiny_vlm[1])
    processor.chat_template = processor.chat_template.replace("<end>", "<end>\n")
    sft_args = SFTConfig(output_dir=str(tmp_path), max_length=None, report_to="none", use_cpu=True, bf16=False)
    theirs = SFTTrainer(model=lively_vlm(), args=sft_args, train_dataset=dataset, processing_class=processor)
    ours = AFSFTTrainer(
        lively_vlm(),
        trainer_args(actor_objective="sft", critic_coef=0.0, segment_length=1),
        train_dataset=dataset,
        processing_class=processor,
    )
    their_labels = theirs.data_collator(examples(dataset, list(range(12))))["labels"]
    our_labels = ours.data_collator([ours.train_dataset[row] for row in range(12)])["labels"]
    newline = processor.tokenizer("\n")["input_ids"]
    for mine, other in zip(our_labels, their_labels, strict=True):
        assert mine[mine != -100].tolist() + newline == other[other != -100].tolist()
