# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A mistake is named before training begins, with its cure, and what lies in the output folder stays as it is."""

import PIL.Image
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, BloomConfig

from trl_vlmq import AFSFTConfig, AFSFTTrainer, EpisodeValidationError
from trl_vlmq.episodes import Episode, Turn, episodes_to_dataset


@pytest.fixture(autouse=True)
def earlier_work(tmp_path):
    """What an earlier run left in the output folder."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "critic.safetensors").write_bytes(b"earlier work")
    yield
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["critic.safetensors"]
    assert (tmp_path / "run" / "critic.safetensors").read_bytes() == b"earlier work"


def one_turn(prompt: list[dict], images: list = (), completion: str = "stop", **changes) -> Dataset:
    return episodes_to_dataset([Episode("e0", [Turn(prompt, list(images), completion, 1.0, True, False, **changes)])])


def user(text: str, images: int = 0) -> list[dict]:
    return [{"role": "user", "content": [{"type": "image"}] * images + [{"type": "text", "text": text}]}]


# ---- Data ----


def test_a_dataset_without_rewards(make_trainer, episodes):
    with pytest.raises(EpisodeValidationError, match="'reward'.*missing.*Cure: .*add_column"):
        make_trainer(train_dataset=episodes.remove_columns("reward"))


def test_a_reward_that_is_not_a_number(make_trainer, episodes):
    rows = episodes.to_list()
    rows[5]["reward"] = float("nan")
    with pytest.raises(EpisodeValidationError, match="row 5.*'reward'.*not a finite number"):
        make_trainer(train_dataset=Dataset.from_list(rows, features=episodes.features))


def test_an_image_that_does_not_open(make_trainer, episodes):
    rows = episodes.with_format("arrow")[:].to_pylist()
    rows[7]["images"][0]["bytes"] = rows[7]["images"][0]["bytes"][:-30]
    with pytest.raises(EpisodeValidationError, match="row 7.*'images'.*cannot be opened"):
        make_trainer(train_dataset=Dataset.from_list(rows, features=episodes.features))


def test_a_bad_held_out_dataset_is_found_before_training_too(make_trainer, episodes):
    with pytest.raises(EpisodeValidationError, match="'terminated'"):
        make_trainer(eval_dataset=episodes.remove_columns("terminated"))


def test_a_list_of_episodes_instead_of_a_dataset(make_trainer):
    with pytest.raises(TypeError, match="train_dataset must be a datasets.Dataset.*episodes_to_dataset"):
        make_trainer(train_dataset=[Episode("e0", [])])


def test_nothing_to_train_on(base_folder, tmp_path):
    trainer = AFSFTTrainer(base_folder, AFSFTConfig(str(tmp_path / "run"), use_cpu=True, report_to="none"))
    with pytest.raises(ValueError, match="pass `train_dataset`"):
        trainer.train()


# ---- Length: 512 tokens of context; a byte is a token, an image four, the template three ----


@pytest.mark.parametrize("images", [0, 2])
def test_a_prompt_longer_than_the_context_is_named_and_never_cut(make_trainer, episodes, images):
    picture = [PIL.Image.new("RGB", (16, 16))] * images
    fits = 512 - 3 - 4 * images - len("stop") - 1
    exact = one_turn(user("x" * fits, images), picture)
    trainer = make_trainer(train_dataset=exact)
    batch = next(iter(trainer.get_train_dataloader()))
    assert batch["inputs"]["input_ids"].shape == (1, 511) and batch["labels"].shape == (
        1,
        5,
    )  # the last one predicts nothing
    longer = one_turn(user("x" * (fits + 1), images), picture)
    with pytest.raises(
        ValueError, match=r"row 0: the prompt has 508 tokens and the completion 5, .*context of 512.*history"
    ):
        make_trainer(train_dataset=longer)


def test_the_row_that_is_too_long_is_the_one_that_is_named(make_trainer, episodes):
    rows = episodes.to_list()
    rows[9]["prompt"][0]["content"][1]["text"] = "y" * 600
    with pytest.raises(ValueError, match="row 9: the prompt has 607 tokens"):
        make_trainer(train_dataset=Dataset.from_list(rows, features=episodes.features))
    with pytest.raises(ValueError, match="row 9: the prompt has 607 tokens"):
        make_trainer(eval_dataset=Dataset.from_list(rows, features=episodes.features))


def test_a_history_of_many_characters_in_few_tokens_is_accepted(make_trainer, tiny_vlm):
    """Characters are not tokens: the tokenizer decides, not an estimate."""
    make, processor = tiny_vlm
    fits = "<user>" * 400  # 2,400 bytes and 400 tokens
    make_trainer(make(), processing_class=processor, train_dataset=one_turn(user(fits)))


def test_sampled_tokens_count_as_they_are_stored(make_trainer):
    """Sampled tokens may be more than their text would have: special tokens leave no text behind."""
    ids = [3] * 500 + [1]
    with pytest.raises(ValueError, match="row 0: the prompt has 14 tokens and the completion 501"):
        make_trainer(
            train_dataset=one_turn(user("x" * 11), completion="", completion_ids=ids, completion_stopped=True)
        )


def test_a_final_observation_that_is_too_long(make_trainer):
    turn = Turn(user("short"), [], "stop", 0.0, False, True, final_prompt=user("z" * 600), final_images=[])
    with pytest.raises(ValueError, match="row 0: the prompt has 603 tokens"):
        make_trainer(train_dataset=episodes_to_dataset([Episode("e0", [turn])]))


@pytest.mark.parametrize("images", [[], None])
def test_a_final_observation_needs_no_room_for_an_action(make_trainer, images):
    turn = Turn(user("short"), [], "stop", 0.0, False, True, final_prompt=user("z" * 509), final_images=images)
    trainer = make_trainer(train_dataset=episodes_to_dataset([Episode("e0", [turn])]))
    assert next(iter(trainer.get_train_dataloader()))["bootstrap_inputs"]["input_ids"].shape == (1, 512)


# ---- Vocabulary ----


@pytest.mark.parametrize("column", ["prompt", "final_prompt", "completion"])
def test_a_text_that_spells_an_image_token(make_trainer, episodes, column):
    rows = episodes.to_list()
    row = next(i for i, turn in enumerate(rows) if turn["truncated"])
    rows[row][column][0]["content"][-1]["text"] = "a web page with an <image>"
    with pytest.raises(ValueError, match=f"row {row}: a text of '{column}' spells '<image>'.*Write it in another way"):
        make_trainer(train_dataset=Dataset.from_list(rows, features=episodes.features))


def test_a_sampled_text_that_only_looks_like_an_image_token_is_accepted(make_trainer, tiny_vlm, tmp_path):
    ids = [token for letter in "<image>" for token in tiny_vlm[1].tokenizer(letter)["input_ids"]] + [1]
    data = one_turn(user("Look."), completion="<image>", completion_ids=ids, completion_stopped=True)
    make_trainer(train_dataset=data, max_steps=1, output_dir=str(tmp_path / "other")).train()


@pytest.mark.parametrize(
    "extra", [[40], [2], [300]], ids=["another_letter", "an_image_token", "beyond_the_vocabulary"]
)
def test_tokens_that_are_not_those_of_the_text(make_trainer, tiny_vlm, extra):
    ids = [*extra, *tiny_vlm[1].tokenizer("stop")["input_ids"], 1]
    data = one_turn(user("Look."), completion="stop", completion_ids=ids, completion_stopped=True)
    with pytest.raises(
        ValueError, match="row 0: the tokens in 'completion_ids' do not spell .*'stop'.*remove_columns"
    ):
        make_trainer(train_dataset=data)
    make_trainer(train_dataset=data.remove_columns(["completion_ids", "completion_stopped"]))


# ---- Models and processors ----


def test_a_loaded_model_without_its_processor(make_trainer, tiny_vlm):
    with pytest.raises(ValueError, match="needs its processor: pass `processing_class=AutoProcessor"):
        make_trainer(tiny_vlm[0]())


def test_a_model_without_a_language_head(make_trainer, base_folder, tiny_vlm):
    with pytest.raises(ValueError, match="no language head.*AutoModelForImageTextToText"):
        make_trainer(AutoModel.from_pretrained(base_folder), processing_class=tiny_vlm[1])


def test_a_text_model_with_images(make_trainer, tiny_llm):
    make, tokenizer = tiny_llm
    with pytest.raises(ValueError, match="LlamaForCausalLM reads text only, but the prompt holds 1 image"):
        make_trainer(make(), processing_class=tokenizer)


def test_a_text_model_of_unlimited_context_with_images(make_trainer, tiny_llm):
    tokenizer = tiny_llm[1]
    model = AutoModelForCausalLM.from_config(
        BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=1, n_head=2)
    )
    with pytest.raises(ValueError, match="BloomForCausalLM reads text only, but the prompt holds 1 image"):
        make_trainer(model, processing_class=tokenizer, lora=False)


def test_a_vision_model_with_a_tokenizer_only(make_trainer, base_folder, tiny_vlm):
    with pytest.raises(ValueError, match="reads images, but its processor .* does not"):
        make_trainer(tiny_vlm[0](), processing_class=AutoTokenizer.from_pretrained(base_folder))


def test_a_processor_without_chat_template(make_trainer, tiny_llm):
    make, _ = tiny_llm
    bare = tiny_llm[1].__class__(tokenizer_object=tiny_llm[1].backend_tokenizer, pad_token="<pad>", eos_token="<end>")
    with pytest.raises(ValueError, match="no chat template; set `processor.chat_template`"):
        make_trainer(make(), processing_class=bare)


def test_a_vision_processor_without_chat_template(make_trainer, base_folder, tiny_vlm):
    processor = AutoProcessor.from_pretrained(base_folder)
    processor.chat_template = processor.tokenizer.chat_template = None
    with pytest.raises(ValueError, match="no chat template; set `processor.chat_template`"):
        make_trainer(tiny_vlm[0](), processing_class=processor)


# ---- Adapters ----


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(target_modules=["q_proj", "lm_head"]),
        LoraConfig(target_modules=r".*(lm_head|q_proj)"),
        LoraConfig(modules_to_save=["lm_head"]),
        LoraConfig(target_modules=["embed_tokens", "q_proj"]),
        LoraConfig(modules_to_save=["embed_tokens"]),
        LoraConfig(trainable_token_indices=[3, 4]),
    ],
    ids=["list", "regex", "modules_to_save", "embedding", "embedding_to_save", "token_indices"],
)
def test_an_adapter_on_the_language_head_or_the_embedding(make_trainer, config):
    with pytest.raises(ValueError, match="trains the (language head|embedding).*remove lm_head and embed_tokens"):
        make_trainer(lora=config)


def test_all_linear_spares_the_language_head(make_trainer):
    """PEFT's shorthand leaves the head alone; should it ever not, the trainer refuses."""
    trainer = make_trainer(lora=LoraConfig(target_modules="all-linear"))
    trained = {name for name, p in trainer.model.model.named_parameters() if p.requires_grad}
    assert any("vision" in name for name in trained) and not any("lm_head" in name for name in trained)


def test_an_adapter_of_the_users_own_on_the_language_head(make_trainer, tiny_vlm):
    make, processor = tiny_vlm
    model = get_peft_model(make(), LoraConfig(target_modules=["q_proj", "lm_head"]))
    with pytest.raises(ValueError, match="trains the language head"):
        make_trainer(model, processing_class=processor, lora=False)


def test_an_adapter_of_the_users_own_elsewhere_is_fine(make_trainer, tiny_vlm, tmp_path):
    make, processor = tiny_vlm
    model = get_peft_model(make(), LoraConfig(target_modules=["q_proj"]))
    trainer = make_trainer(model, processing_class=processor, lora=False, output_dir=str(tmp_path / "other"))
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.state.log_history[0]["loss"]))


# ---- Options ----


@pytest.mark.parametrize(
    "option, value, message",
    [
        ("actor_objective", "ppo", "actor_objective='ppo': choose one of afsft, sft, random_filter, epg, awr"),
        ("td_horizon", "episode", "choose one of token, turn, tree_backup"),
        ("actor_normalizer", "none", "choose one of tokens, kept"),
        ("advantage_baseline", "mean", "choose one of online, target"),
        ("gamma", 1.5, r"gamma=1.5 lies outside of \[0, 1\]"),
        ("gamma", -0.1, "gamma=-0.1 lies outside"),
        ("token_gamma", 2.0, "token_gamma=2.0 lies outside"),
        ("target_tau", 1.1, "target_tau=1.1 lies outside"),
        ("filter_keep_fraction", -1.0, "filter_keep_fraction=-1.0 lies outside"),
        ("filter_keep_confident", 1.5, "filter_keep_confident=1.5 lies outside"),
        ("filter_warmup_ratio", 35, "filter_warmup_ratio=35 lies outside"),
        ("filter_beta", float("nan"), "filter_beta is NaN"),
        ("critic_coef", -1.0, "critic_coef=-1.0 lies outside"),
        ("critic_coef", 0.0, "actor_objective='afsft' needs a trained critic.*'sft'"),
        ("critic_coef", float("nan"), "critic_coef=nan lies outside"),
        ("num_critics", 0, "num_critics=0 must be positive"),
        ("segment_length", 0, "segment_length=0 must be positive"),
        ("reward_scale", 0.0, "reward_scale=0.0 must be positive"),
        ("awr_temperature", -1.0, "awr_temperature=-1.0 must be positive"),
        ("awr_max_weight", 0.0, "awr_max_weight=0.0 must be positive"),
        ("critic_hidden_size", 0, "critic_hidden_size=0 must be positive"),
        ("critic_learning_rate", -1e-3, "critic_learning_rate=-0.001 lies outside"),
    ],
)
def test_a_wrong_option(option, value, message):
    with pytest.raises(ValueError, match=message):
        AFSFTConfig("run", use_cpu=True, **{option: value})


def test_the_options_at_the_ends_of_their_ranges_are_accepted():
    AFSFTConfig(
        "run", use_cpu=True, gamma=0.0, token_gamma=1.0, target_tau=1.0, filter_beta=float("-inf"),
        filter_keep_confident=None, critic_hidden_size=None, critic_learning_rate=0.0, filter_warmup_ratio=0.0,
    )  # fmt: skip


def test_several_gpus_in_one_process(episodes, base_folder, training_arguments):
    """nn.DataParallel would cut the nested batch; no machine of the tests has two GPUs, so the count is set by hand."""
    args = AFSFTConfig(**training_arguments())
    args._n_gpu = 2
    with pytest.raises(ValueError, match="2 GPUs.*accelerate launch"):
        AFSFTTrainer(model=base_folder, args=args, train_dataset=episodes, peft_config=LoraConfig(r=2))
