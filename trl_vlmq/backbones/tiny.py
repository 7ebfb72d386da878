# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""The embedded tiny vision-language models: standard transformers classes at about 1.5M parameters.

They exist so that the examples, the tests and a newcomer's first run need neither a download nor a GPU. Each was
pre-trained by `examples/pretrain_tiny_vlm.py` to *describe pictures* of one domain and has never seen an action, a
reward or a trajectory.
"""

import json
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
)
from transformers.models.siglip import SiglipImageProcessorPil


TINY_MODELS = ("tiny-babyai", "tiny-cards", "tiny-miniwob")

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}</s>{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ("<unk>", "<pad>", "<s>", "</s>", "<image>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")


def tiny_model_path(name: str = "tiny-babyai") -> str:
    """Folder of an embedded model, for any `from_pretrained`.

    Args:
        name (`str`, *optional*, defaults to `"tiny-babyai"`):
            One of `TINY_MODELS`.

    Raises:
        ValueError: if there is no such model in the package.
    """
    if name not in TINY_MODELS:
        raise ValueError(f"There is no embedded model {name!r}; choose one of {', '.join(TINY_MODELS)}.")
    return str(Path(str(files("trl_vlmq") / "models" / name)))


def resolve_model(name_or_path: str) -> str:
    """The folder of an embedded model for its name; anything else, a folder of the same name too, as it is.

    Args:
        name_or_path (`str`):
            Name of an embedded model, folder or Hub id.
    """
    embedded = name_or_path in TINY_MODELS and not Path(name_or_path).is_dir()
    return tiny_model_path(name_or_path) if embedded else name_or_path


def embedded_name(name_or_path: str | None) -> str | None:
    """The name of an embedded model for its folder, which differs from machine to machine; anything else as it is.

    Args:
        name_or_path (`str`):
            Folder, Hub id or name.
    """
    return next((name for name in TINY_MODELS if tiny_model_path(name) == name_or_path), name_or_path)


def build_tiny_tokenizer(corpus: Iterable[str], vocab_size: int = 640) -> PreTrainedTokenizerFast:
    """A byte-fallback BPE tokenizer: words of `corpus` become tokens, anything else falls back to UTF-8 bytes.

    Args:
        corpus (`Iterable[str]`):
            Texts that the merges are learned from.
        vocab_size (`int`, *optional*, defaults to `640`):
            Upper limit, special and byte tokens included.
    """
    byte_tokens = [f"<0x{i:02X}>" for i in range(256)]
    normalizer = normalizers.Replace(" ", "▁")
    splitter = pre_tokenizers.Split(Regex(r"▁?\p{L}+|▁?\p{N}|▁?[^\p{L}\p{N}▁]+|▁+"), "isolated")
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = normalizer, splitter
    room = vocab_size - len(SPECIAL_TOKENS) - len(byte_tokens)
    learner.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=room, show_progress=False))
    learned = learner.get_vocab()
    # Merges are kept in the order in which they were learned; the byte tokens are ordinary entries, as in Llama's
    # tokenizer, so that text which spells "<0x0A>" is not mistaken for a byte.
    merges = json.loads(learner.to_str())["model"]["merges"]
    ordered = [*SPECIAL_TOKENS, *byte_tokens, *sorted(learned, key=learned.get)]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(ordered)},
            merges=[tuple(pair) for pair in merges],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


def build_tiny_vlm(
    tokenizer: PreTrainedTokenizerFast,
    *,
    image_size: int = 112,
    patch_size: int = 16,
    hidden_size: int = 128,
    text_layers: int = 4,
    vision_layers: int = 2,
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """A tiny LLaVA with random weights, and its processor.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerFast`]):
            From [`build_tiny_tokenizer`].
        image_size (`int`, *optional*, defaults to `112`):
            Pixels per side; other pictures are resized.
        patch_size (`int`, *optional*, defaults to `16`):
            Pixels per side of one image token.
        hidden_size (`int`, *optional*, defaults to `128`):
            Width of both towers.
        text_layers (`int`, *optional*, defaults to `4`):
            Layers of the Llama decoder.
        vision_layers (`int`, *optional*, defaults to `2`):
            Layers of the SigLIP encoder.
    """
    heads = max(1, hidden_size // 32)
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=vision_layers,
            num_attention_heads=heads,
            image_size=image_size,
            patch_size=patch_size,
            vision_use_head=False,
        ),
        text_config=LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden_size,
            intermediate_size=3 * hidden_size,
            num_hidden_layers=text_layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=1024,
            initializer_range=hidden_size**-0.5,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=False,
        ),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=(image_size // patch_size) ** 2,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    processor = LlavaProcessor(
        image_processor=SiglipImageProcessorPil(size={"height": image_size, "width": image_size}),
        tokenizer=tokenizer,
        patch_size=patch_size,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
    )
    return model, processor
