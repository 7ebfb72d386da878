# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Published MoonDream2 checkpoints -> folders that `load_backbone` reads.

    python -m trl_vlmq.backbones.moondream2.convert SOURCE DESTINATION [--tokenizer FOLDER]

SOURCE holds `model.safetensors` (or its shards with their index) of a revision from 2024-05-20 to 2024-08-26 or of one of
2025, DESTINATION becomes a folder with model and processor in the dtype of the source. `tokenizer.json` is looked for in
SOURCE; the revisions of June 2025 keep theirs in a repository of its own. The weights of the heads for points and boxes
are left out. Quantised revisions are refused.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AddedToken, PreTrainedTokenizerFast

from ..safetensors_folder import SafetensorsFolder
from .configuration import MoonDream2Config
from .image_processing import MoonDream2ImageProcessor
from .modeling import MoonDream2ForConditionalGeneration
from .processing import IMAGE_TOKEN, MoonDream2Processor, question_template


# Names here, in 2024 and in 2025; "*" is the number of a layer, and of three names here the source holds the rows of all.
_VISION_2024 = "vision_encoder.encoder.model.visual"
_TENSORS = (
    ("model.language_model.embed_tokens.weight", "text_model.transformer.embd.wte.weight", "model.text.wte"),
    ("model.vision_tower.embeddings.position_embedding.weight", f"{_VISION_2024}.pos_embed", "model.vision.pos_emb"),
)
_MODULES = (
    ("model.vision_tower.embeddings.patch_embedding", f"{_VISION_2024}.patch_embed.linear", "model.vision.patch_emb"),
    ("model.vision_tower.post_layernorm", f"{_VISION_2024}.norm", "model.vision.post_ln"),
    ("model.multi_modal_projector.linear_1", "vision_encoder.projection.mlp.fc1", "model.vision.proj_mlp.fc1"),
    ("model.multi_modal_projector.linear_2", "vision_encoder.projection.mlp.fc2", "model.vision.proj_mlp.fc2"),
    ("model.language_model.final_layernorm", "text_model.lm_head.ln", "model.text.post_ln"),
    ("lm_head", "text_model.lm_head.linear", "model.text.lm_head"),
)
_VISION_LAYER = ("model.vision_tower.encoder.layers.*", f"{_VISION_2024}.blocks.*", "model.vision.blocks.*")
_VISION_MODULES = (
    ("layer_norm1", "norm1", "ln1"),
    ("self_attn.q_proj self_attn.k_proj self_attn.v_proj", "attn.qkv", "attn.qkv"),
    ("self_attn.out_proj", "attn.proj", "attn.proj"),
    ("layer_norm2", "norm2", "ln2"),
    ("mlp.fc1", "mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2", "mlp.fc2"),
)
_TEXT_LAYER = ("model.language_model.layers.*", "text_model.transformer.h.*", "model.text.blocks.*")
_TEXT_MODULES = (
    ("input_layernorm", "ln", "ln"),
    ("self_attn.q_proj self_attn.k_proj self_attn.v_proj", "mixer.Wqkv", "attn.qkv"),
    ("self_attn.dense", "mixer.out_proj", "attn.proj"),
    ("mlp.fc1", "mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2", "mlp.fc2"),
)
_REGION = ("region_model.", "model.region.")  # heads for points and boxes


def published_config(generation: int) -> MoonDream2Config:
    """The published sizes of a generation, 2024 or 2025."""
    return MoonDream2Config(**({"overlap_margin": 0, "bidirectional_prefix": False} if generation == 2024 else {}))


def published_names(config: MoonDream2Config, generation: int) -> dict[str, list[str]]:
    """Published name of each tensor -> its names here, three for a fused query, key and value.

    Args:
        config ([`MoonDream2Config`]):
            Numbers of layers.
        generation (`int`):
            2024 or 2025.
    """
    column = generation - 2023
    rows = list(_MODULES)
    for layers, layer, modules in (
        (config.vision_config.num_hidden_layers, _VISION_LAYER, _VISION_MODULES),
        (config.text_config.num_hidden_layers, _TEXT_LAYER, _TEXT_MODULES),
    ):
        for index in range(layers):
            here, there = (layer[i].replace("*", str(index)) for i in (0, column))
            for module in modules:
                ours = " ".join(f"{here}.{name}" for name in module[0].split())
                rows.append((ours, f"{there}.{module[1]}", f"{there}.{module[2]}"))
    names = {row[column]: [row[0]] for row in _TENSORS}
    for row in rows:
        for kind in ("weight", "bias"):
            names[f"{row[column]}.{kind}"] = [f"{name}.{kind}" for name in row[0].split()]
    return names


def convert_weights(tensors: Mapping[str, torch.Tensor], config: MoonDream2Config) -> dict[str, torch.Tensor]:
    """Published tensors -> the state dict of [`MoonDream2ForConditionalGeneration`].

    Args:
        tensors (`Mapping[str, torch.Tensor]`):
            A checkpoint with the names of either generation.
        config ([`MoonDream2Config`]):
            Sizes.

    Raises:
        ValueError: names tensors that are missing, unexpected or of another shape.
    """
    tensors = {name.replace("._orig_mod", ""): tensor for name, tensor in tensors.items()}  # as torch.compile left it
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_REGION)}
    names = published_names(config, checkpoint_generation(tensors))
    _complain("misses", names.keys() - tensors.keys())
    _complain("holds unexpected", tensors.keys() - names.keys())
    with torch.device("meta"):
        expected = MoonDream2ForConditionalGeneration(config).state_dict()
    weights = {}
    for name, ours in names.items():
        shape = (sum(expected[our].shape[0] for our in ours), *expected[ours[0]].shape[1:])
        tensor = tensors[name]
        if name.endswith(("pos_embed", "pos_emb")) and tensor.dim() == 3:
            tensor = tensor[0]
        if tensor.shape[:1] != shape[:1] or tensor.numel() != torch.Size(shape).numel():
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}, which does not fit into {shape}. Revisions before "
                "2024-05-20, which see no local crops, and other sizes than MoonDream2's are not supported."
            )
        # A patch is flattened channel by channel there, and a convolution's kernel here.
        parts = tensor.reshape(shape).chunk(len(ours))
        weights |= {our: part.clone() for our, part in zip(ours, parts, strict=True)}
    return weights


def checkpoint_generation(names) -> int:
    """2024 or 2025, told by the names of a checkpoint's tensors.

    Raises:
        ValueError: if the names are of neither.
    """
    for generation, prefix in ((2024, "text_model.transformer."), (2025, "model.text.")):
        if any(name.startswith(prefix) for name in names):
            return generation
    raise ValueError(
        "This is no checkpoint of MoonDream2: no name begins with 'text_model.transformer.' (2024) or 'model.text.' "
        f"(2025). It holds {', '.join(sorted(names)[:3])} ..."
    )


def _complain(what: str, names: set[str]) -> None:
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise ValueError(f"The checkpoint {what} {', '.join(sorted(names)[:5])}{more}.")


def make_processor(tokenizer_file: str | Path, config: MoonDream2Config) -> MoonDream2Processor:
    """The processor of a published tokenizer.

    Up to April 2025 prompts are words, "\\n\\nQuestion: ...\\n\\nAnswer:", and `<|endoftext|>` stops; since June 2025 they
    are the tokens 1, 15381, 2 before a question and 3, 3 after it, and token 0 stops.

    Args:
        tokenizer_file (`str` or `Path`):
            `tokenizer.json` of the checkpoint.
        config ([`MoonDream2Config`]):
            Sizes of images.
    """
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), clean_up_tokenization_spaces=False)
    in_words = tokenizer.convert_tokens_to_ids("<|endoftext|>") not in (None, 0)
    stop = "<|endoftext|>" if in_words else tokenizer.convert_ids_to_tokens(0)
    tokenizer.add_special_tokens({"bos_token": stop, "eos_token": stop, "pad_token": stop})
    tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    tokenizer.model_max_length = config.text_config.max_position_embeddings
    if in_words:
        template = question_template(tokenizer, "\n\nQuestion: ", "\n\nAnswer:", " ")
    else:
        template = question_template(tokenizer, tokenizer.decode([1, 15381, 2]), tokenizer.decode([3, 3]), "")
    image_processor = MoonDream2ImageProcessor(
        config.vision_config.image_size, config.vision_config.patch_size, config.overlap_margin
    )
    return MoonDream2Processor(image_processor, tokenizer, chat_template=template)


def convert_checkpoint(
    source: str | Path,
    destination: str | Path,
    tokenizer: str | Path | None = None,
    config: MoonDream2Config | None = None,
) -> None:
    """Read a published checkpoint and write a folder that [`load_backbone`] reads.

    Args:
        source (`str` or `Path`):
            Folder of the published checkpoint.
        destination (`str` or `Path`):
            Folder to write.
        tokenizer (`str` or `Path`, *optional*):
            Folder of `tokenizer.json`; defaults to `source`.
        config ([`MoonDream2Config`], *optional*):
            Sizes; defaults to the published ones of the checkpoint's generation.

    Raises:
        FileNotFoundError: if there are no weights or there is no tokenizer.
        ValueError: if names or shapes are not those of either generation.
    """
    tokenizer_file = Path(tokenizer or source) / "tokenizer.json"
    if not tokenizer_file.is_file():
        raise FileNotFoundError(f"{tokenizer_file} is missing; pass the folder that holds it as `tokenizer`.")
    with SafetensorsFolder(source) as published:
        config = config or published_config(checkpoint_generation(published))
        weights = convert_weights(published, config)
    processor = make_processor(tokenizer_file, config)
    tokens = processor.tokenizer
    config.image_token_id = processor.image_token_id
    config.text_config.bos_token_id = config.text_config.eos_token_id = tokens.eos_token_id
    with torch.device("meta"):
        model = MoonDream2ForConditionalGeneration(config)
    model.load_state_dict(weights, assign=True)
    model.generation_config.update(
        bos_token_id=tokens.bos_token_id, eos_token_id=tokens.eos_token_id, pad_token_id=tokens.pad_token_id
    )
    model.save_pretrained(destination)
    processor.save_pretrained(destination)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trl_vlmq.backbones.moondream2.convert", description=__doc__)
    parser.add_argument("source", help="folder of the published checkpoint")
    parser.add_argument("destination", help="folder to write")
    parser.add_argument("--tokenizer", help="folder of tokenizer.json, if not the source")
    arguments = parser.parse_args()
    convert_checkpoint(arguments.source, arguments.destination, arguments.tokenizer)


if __name__ == "__main__":
    main()
