# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
import os
import tempfile


# Read when the libraries below are imported: no test needs the network, and whatever they cache goes away with the tests.
_caches = tempfile.TemporaryDirectory(prefix="trl_vlmq_tests_")
os.environ["HF_HOME"] = _caches.name
os.environ["HF_HUB_OFFLINE"] = "1"
# DeepSpeed compiles here. A run that was killed meanwhile leaves a lock, and whoever shares the folder waits for ever.
os.environ["TORCH_EXTENSIONS_DIR"] = os.path.join(_caches.name, "torch_extensions")
# Models of the tests are so small that a second thread costs more than it does, in subprocesses too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch


# Triton's kernels run through its interpreter where there is no GPU. Triton reads this when it is first imported.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PhiConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    set_seed,
)


TEXT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}"
    "<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, and six special ones; turns end with `<end>`, the eos token."""
    specials = ["<pad>", "<end>", "<image>", "<system>", "<user>", "<assistant>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(specials + alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<end>",
        additional_special_tokens=specials[2:],
    )


@pytest.fixture(scope="session")
def tiny_vlm() -> tuple[Callable[..., LlavaForConditionalGeneration], LlavaProcessor]:
    """
    A LLaVA of some 45,000 parameters and its processor, made here and stored nowhere.

    Returns:
        The factory `make(seed=0) -> model`, whose models of one seed are equal, and the processor. Images are 16 x 16
        pixels and 4 image tokens; text is one token a byte; turns stop at `<end>`, the eos token.
    """
    tokenizer = byte_tokenizer()
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_convert_rgb=True
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which "default" drops again
        image_token="<image>",
        chat_template=CHAT_TEMPLATE,
    )
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=16,
            patch_size=8,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )

    def make(seed: int = 0) -> LlavaForConditionalGeneration:
        set_seed(seed)
        return LlavaForConditionalGeneration(config).eval()

    return make, processor


@pytest.fixture(scope="session")
def base_folder(tiny_vlm, tmp_path_factory) -> str:
    """The tiny LLaVA and its processor, saved as any base model is."""
    make, processor = tiny_vlm
    folder = tmp_path_factory.mktemp("base")
    make().save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tiny_llm() -> tuple[Callable[..., PreTrainedModel], PreTrainedTokenizerFast]:
    """
    Text-only models of some 30,000 parameters and their tokenizer, made here and stored nowhere.

    Returns:
        The factory `make(family="llama", seed=0, **config) -> model`, for "llama", "qwen2" and "phi", and the tokenizer.
    """
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEXT_TEMPLATE
    configs = {"llama": LlamaConfig, "qwen2": Qwen2Config, "phi": PhiConfig}

    def make(family: str = "llama", seed: int = 0, **config) -> PreTrainedModel:
        set_seed(seed)
        settings = {
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "tie_word_embeddings": False,
        }
        return AutoModelForCausalLM.from_config(configs[family](**settings | config)).eval()

    return make, tokenizer
