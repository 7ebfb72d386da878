# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Families that see."""

from dataclasses import replace

import transformers

from trl_vlmq.backbones import XGenMMConfig, XGenMMImageProcessorPil, XGenMMProcessor

from .family import PADDED_ROWS, TEXT_SIZES, VISION_SIZES, Family, chat_template, with_tokens, without_videos


# A picture becomes crops of 16 x 16 pixels and itself.
GRID = [[16, 32], [32, 16], [32, 32]]

# As Idefics3's: a space is written before the assistant's text, and another token than eos ends its turn.
IDEFICS_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def _text(tokenizer, config_class=transformers.LlamaConfig, **config):
    return config_class(**TEXT_SIZES | {"vocab_size": len(tokenizer) + PADDED_ROWS} | config)


def _siglip(**config):
    return transformers.SiglipVisionConfig(**VISION_SIZES | {"vision_use_head": False} | config)


def llava(byte_tokenizer) -> Family:
    tokenizer = with_tokens(byte_tokenizer)
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, do_convert_rgb=True
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # CLIP's class token, which "default" drops again
        image_token="<image>",
        chat_template=chat_template("<image>"),
    )
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION_SIZES),
        text_config=_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        tie_word_embeddings=False,
    )
    return Family("llava", config, processor, ("<image>",))


def llava_next(byte_tokenizer) -> Family:
    tokenizer = with_tokens(byte_tokenizer)
    processor = transformers.LlavaNextProcessor(
        transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=GRID
        ),
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=chat_template("<image>"),
    )
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION_SIZES),
        text_config=_text(tokenizer),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-2,
        image_grid_pinpoints=GRID,
        tie_word_embeddings=False,
    )
    return Family("llava_next", config, processor, ("<image>",))


def llava_onevision(byte_tokenizer) -> Family:
    tokenizer = with_tokens(byte_tokenizer, "<video>")
    image, video = tokenizer.convert_tokens_to_ids(["<image>", "<video>"])
    processor = without_videos(transformers.LlavaOnevisionProcessor)(
        transformers.LlavaOnevisionImageProcessorPil(size={"height": 16, "width": 16}, image_grid_pinpoints=GRID),
        tokenizer,
        None,
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=chat_template("<image>"),
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=_siglip(),
        text_config=_text(tokenizer, transformers.Qwen2Config),
        image_token_index=image,
        video_token_index=video,
        image_grid_pinpoints=GRID,
    )
    return Family("llava_onevision", config, processor, ("<image>", "<video>"), needs_torchvision=True)


def _idefics(name: str, byte_tokenizer, image_processor_class, config_class, vision_class) -> Family:
    parts = ["<fake_token_around_image>", "<global-img>"]
    parts += [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    tokenizer = with_tokens(byte_tokenizer, "<end_of_utterance>", *parts)
    processor = transformers.Idefics3Processor(
        # Four crops and the picture itself, each of 4 image tokens.
        image_processor_class(size={"longest_edge": 32}, max_image_size={"longest_edge": 16}),
        tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    config = config_class(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        vision_config=vision_class(**VISION_SIZES | {"patch_size": 4}),
        text_config=_text(tokenizer),
        tie_word_embeddings=False,
    )
    return Family(name, config, processor, ("<image>",), "<end_of_utterance>", " ")


def idefics3(byte_tokenizer) -> Family:
    return _idefics(
        "idefics3",
        byte_tokenizer,
        transformers.Idefics3ImageProcessorPil,
        transformers.Idefics3Config,
        transformers.models.idefics3.Idefics3VisionConfig,
    )


def smolvlm(byte_tokenizer) -> Family:
    # SmolVLM's processor needs torchvision and num2words for its videos; with images it does what Idefics3's does.
    family = _idefics(
        "smolvlm",
        byte_tokenizer,
        transformers.SmolVLMImageProcessorPil,
        transformers.SmolVLMConfig,
        transformers.models.smolvlm.SmolVLMVisionConfig,
    )
    return replace(family, needs_torchvision=True)


def _paligemma(name: str, byte_tokenizer, text_class, logits_of, **text) -> Family:
    tokenizer = with_tokens(byte_tokenizer)
    tokenizer.add_special_tokens({"bos_token": "<bos>"})
    image_processor = transformers.SiglipImageProcessorPil(size={"height": 16, "width": 16})
    image_processor.image_seq_length = 4
    processor = transformers.PaliGemmaProcessor(image_processor, tokenizer, chat_template=chat_template("<image>"))
    config = transformers.PaliGemmaConfig(
        vision_config=_siglip(projection_dim=32),
        text_config=_text(tokenizer, text_class, head_dim=16, **text),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projection_dim=32,
    )
    return Family(name, config, processor, ("<image>",), needs_image=True, logits_of=logits_of)


def paligemma(byte_tokenizer) -> Family:
    return _paligemma("paligemma", byte_tokenizer, transformers.GemmaConfig, lambda head: head)


def paligemma2(byte_tokenizer) -> Family:
    return _paligemma(
        "paligemma2",
        byte_tokenizer,
        transformers.Gemma2Config,
        lambda head: 2.0 * (head / 2.0).tanh(),
        final_logit_softcapping=2.0,
    )


def gemma3(byte_tokenizer) -> Family:
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image>"}
    tokenizer = with_tokens(byte_tokenizer, **names)
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessorPil(size={"height": 16, "width": 16}),
        tokenizer,
        image_seq_length=4,
        chat_template=chat_template("<start_of_image>"),
    )
    begin, end, image = tokenizer.convert_tokens_to_ids(list(names.values()))
    config = transformers.Gemma3Config(
        vision_config=_siglip(),
        text_config=_text(tokenizer, transformers.Gemma3TextConfig, head_dim=16, sliding_window=16),
        mm_tokens_per_image=4,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=image,
    )

    def project(model) -> None:  # its projection begins at zero, and would show nothing
        model.model.multi_modal_projector.mm_input_projection_weight.data.normal_()

    return Family("gemma3", config, processor, tuple(names.values()), prepare=project)


def _qwen_vl(name: str, version: str, byte_tokenizer, vision: dict, text: dict) -> Family:
    names = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    tokenizer = with_tokens(byte_tokenizer, *names)
    start, end, image, video = tokenizer.convert_tokens_to_ids(names)
    processor = without_videos(getattr(transformers, f"{version}Processor"))(
        transformers.Qwen2VLImageProcessorPil(
            patch_size=4, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 64, "longest_edge": 1024}
        ),
        tokenizer,
        None,
        chat_template=chat_template("".join([names[0], names[2], names[1]])),
    )
    shared = {"depth": 2, "num_heads": 2, "patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = getattr(transformers, f"{version}Config")(
        text_config=TEXT_SIZES | {"vocab_size": len(tokenizer) + PADDED_ROWS, "rope_parameters": rope} | text,
        vision_config=shared | vision,
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    return Family(name, config, processor, tuple(names), needs_torchvision=True)


def qwen2_vl(byte_tokenizer) -> Family:
    vision = {"embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}
    return _qwen_vl("qwen2_vl", "Qwen2VL", byte_tokenizer, vision, {})


def qwen2_5_vl(byte_tokenizer) -> Family:
    vision = {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32}
    vision |= {"window_size": 16, "fullatt_block_indexes": [1]}
    return _qwen_vl("qwen2_5_vl", "Qwen2_5_VL", byte_tokenizer, vision, {})


def qwen3_vl(byte_tokenizer) -> Family:
    vision = {"hidden_size": 16, "out_hidden_size": 32, "intermediate_size": 32}
    vision |= {"num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 10000.0}
    return _qwen_vl("qwen3_vl", "Qwen3VL", byte_tokenizer, vision, {"head_dim": 16, "rope_parameters": rope})


def internvl(byte_tokenizer) -> Family:
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = with_tokens(byte_tokenizer, **names)
    processor = without_videos(transformers.InternVLProcessor)(
        transformers.GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=3),
        tokenizer,
        None,
        image_seq_length=4,
        chat_template=chat_template("<IMG_CONTEXT>"),
    )
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(**VISION_SIZES | {"patch_size": 4}),
        text_config=_text(tokenizer, transformers.Qwen2Config),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return Family("internvl", config, processor, ("<img>", "</img>", "<IMG_CONTEXT>"), needs_torchvision=True)


def aya_vision(byte_tokenizer) -> Family:
    parts = ["<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "TILE", "TILE_GLOBAL"]
    tokenizer = with_tokens(byte_tokenizer, *parts)
    processor = transformers.AyaVisionProcessor(
        transformers.GotOcr2ImageProcessorPil(size={"height": 16, "width": 16}, max_patches=3),
        tokenizer,
        patch_size=4,
        img_size=16,
        downsample_factor=2,
        chat_template=chat_template("<image>"),
    )
    config = transformers.AyaVisionConfig(
        vision_config=_siglip(patch_size=4),
        text_config=_text(tokenizer, transformers.Cohere2Config, sliding_window=16),
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
        downsample_factor=2,
    )
    return Family("aya_vision", config, processor, tuple(parts))


def xgen_mm(byte_tokenizer) -> Family:
    tokenizer = with_tokens(
        byte_tokenizer, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<image placeholder>"
    )
    processor = XGenMMProcessor(XGenMMImageProcessorPil(size={"height": 16, "width": 16}), tokenizer, 2)
    image, placeholder = tokenizer.convert_tokens_to_ids(["<image>", "<image placeholder>"])
    config = XGenMMConfig(
        vision_config=_siglip(),
        text_config=_text(tokenizer, transformers.Phi3Config, original_max_position_embeddings=512),
        num_image_tokens=2,
        resampler_layers=2,
        resampler_heads=2,
        resampler_head_dim=8,
        image_token_id=image,
        image_placeholder_token_id=placeholder,
        initializer_range=0.2,
    )
    names = ("<image>", "<image placeholder>")
    return Family("xgen_mm", config, processor, names, turn_ends_with="<|end|>", linears_per_layer=4)


VISION_FAMILIES = {
    make.__name__: make
    for make in (
        llava,
        llava_next,
        llava_onevision,
        idefics3,
        smolvlm,
        paligemma,
        paligemma2,
        gemma3,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        internvl,
        aya_vision,
        xgen_mm,
    )
}
