# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Pre-train an embedded tiny VLM to describe pictures of one domain, and nothing else.

The model learns to answer questions about randomly generated pictures (`captions_babyai.py`, `captions_cards.py`,
`captions_miniwob.py`). It never sees an action, a reward or a trajectory. The rows of tokens that no caption uses (action
words among them) keep their random initial directions; they are masked out of the softmax, the last `--settle_steps` aside.

Make weights of your own (the last digits depend on the number of processes and threads):

    torchrun --nproc_per_node 2 examples/pretrain_tiny_vlm.py --steps 9000 --output_dir outputs/tiny-babyai
    torchrun --nproc_per_node 2 examples/pretrain_tiny_vlm.py --domain cards --steps 4500 --settle_steps 900 --output_dir outputs/tiny-cards
    torchrun --nproc_per_node 2 examples/pretrain_tiny_vlm.py --domain miniwob --num_layouts 1600 --batch_size 40 \
        --learning_rate 1.5e-3 --steps 2600 --settle_steps 400 --output_dir outputs/tiny-miniwob

The packaged models were not made in one go: `tiny-babyai` in three stages of 3,600, 3,500 and 2,600 steps, each with views
of its own and from the weights of the one before (`--init_from`), while the questions were still being improved
(docs/experiment_log.md, experiments 1, 6 and 8); `tiny-cards` in 3,600 steps, and 900 of settling from there with `--seed 1
--num_layouts 5000 --learning_rate 1e-3`: 25 minutes on two cores (experiment 22).

With several processes each makes views of its own and takes its share of the batch, which on a CPU is much faster than
several threads in one process.

A quick look at whether it learns:

    python examples/pretrain_tiny_vlm.py --num_layouts 300 --steps 100 --output_dir outputs/tiny-babyai-quick
"""

import importlib
import json
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from describing import conversation, describe_accuracy, encode
from tqdm.auto import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor, HfArgumentParser, set_seed

from trl_vlmq.backbones.tiny import build_tiny_tokenizer, build_tiny_vlm


HEAD_LENGTH = 1.5  # of the head's rows that no caption uses, relative to those that one does
LENGTHS = 6  # groups of views that are told at alike lengths; a batch is of one of them


@dataclass
class PretrainArguments:
    """Arguments of the pre-training script."""

    output_dir: str = field(metadata={"help": "Folder for the model and its processor."})
    domain: str = field(default="babyai", metadata={"help": "What the pictures show: babyai, cards or miniwob."})
    seed: int = field(default=0, metadata={"help": "Seed of the layouts, the questions and the weights."})
    num_layouts: int = field(
        default=8000, metadata={"help": "Random grids or games; up to six views are taken from each."}
    )
    steps: int = field(default=3600, metadata={"help": "Optimiser steps."})
    batch_size: int = field(default=64, metadata={"help": "Views per step, each with several questions."})
    questions: int = field(default=4, metadata={"help": "Questions about each view and step."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of AdamW."})
    init_from: str | None = field(
        default=None, metadata={"help": "Go on from these weights, a folder that this script wrote."}
    )
    settle_steps: int = field(
        default=0,
        metadata={"help": "Last steps in which descriptions learn to keep away from tokens that no caption uses."},
    )
    held_out: int = field(default=500, metadata={"help": "Unseen views that the accuracy is measured on."})


def main() -> None:
    (args,) = HfArgumentParser(PretrainArguments).parse_args_into_dataclasses()
    set_seed(args.seed)
    processes, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    if processes > 1:
        torch.distributed.init_process_group("gloo")
    rng = random.Random(args.seed + 1_000 * rank)
    captions = importlib.import_module(f"captions_{args.domain}")
    views = captions.generate_views(args.num_layouts, rng)
    if args.init_from is not None:
        model = AutoModelForImageTextToText.from_pretrained(args.init_from)
        processor = AutoProcessor.from_pretrained(args.init_from)
        tokenizer = processor.tokenizer
    else:
        corpus = [text for view in views[:3000] for _ in range(4) for text in captions.ask(view, rng)]
        corpus += [view.text for view in views[:3000]]
        corpus += [text for text in captions.TOKENIZER_TEXTS for _ in range(50)]
        if processes > 1:  # one tokenizer for all
            shared = [corpus]
            torch.distributed.broadcast_object_list(shared)
            (corpus,) = shared
        tokenizer = build_tiny_tokenizer(corpus, captions.VOCABULARY)
        model, processor = build_tiny_vlm(tokenizer)
    model.set_attn_implementation("eager")  # with bf16 twice as fast here as the fused kernel on a CPU
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens, {len(views)} views")

    asked = views * max(1, 3000 // len(views))  # often enough to have heard every answer
    answers = {answer for view in asked for answer in (captions.ask(view, rng)[1], view.description)}
    used = torch.zeros(len(tokenizer), dtype=torch.bool)
    for answer in answers:
        used[tokenizer(answer)["input_ids"]] = True
    used[tokenizer.eos_token_id] = True
    used = of_any_process(used)

    images = torch.from_numpy(np.stack([view.image for view in views])).permute(0, 3, 1, 2)
    for view in views:
        view.image = None  # 1.8 GB that nobody reads any more
    decay = [p for n, p in model.named_parameters() if p.dim() >= 2 and "embed" not in n and "lm_head" not in n]
    rest = [p for n, p in model.named_parameters() if p.dim() < 2 or "embed" in n or "lm_head" in n]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}],
        lr=args.learning_rate, betas=(0.9, 0.98),
    )  # fmt: skip
    warmup = max(1, args.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 * (1 + np.cos(np.pi * step / args.steps)) + 0.01)
    )
    model.train()
    image_tokens = model.config.image_seq_length
    by_length = sorted(range(len(views)), key=lambda i: len(views[i].text))
    groups = max(1, min(LENGTHS, len(views) * processes // args.batch_size))
    alike = [chunk.tolist() for chunk in np.array_split(by_length, groups)]  # so that little is padding
    read = torch.zeros_like(used)  # tokens that stood in some input
    bar, start, running = tqdm(range(args.steps), desc="steps", mininterval=2), time.time(), None
    for step in bar:
        batch = rng.sample(rng.choice(alike), args.batch_size // processes)
        conversations = [conversation(views[i], captions, args.questions, rng) for i in batch]
        input_ids, labels = encode(processor, conversations, image_tokens)
        read[input_ids.flatten()] = True
        settling = step >= args.steps - args.settle_steps
        if step == args.steps - args.settle_steps:
            lengthen(model.lm_head.weight, used, HEAD_LENGTH)
        pixels = images[batch].float() / 127.5 - 1.0
        mask = (input_ids != tokenizer.pad_token_id).long()
        targets = labels[:, 1:]
        chosen = targets != -100
        used[targets[chosen]] = True  # an answer that was not heard above
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(input_ids=input_ids, attention_mask=mask, pixel_values=pixels).last_hidden_state
            logits = model.lm_head(hidden[:, :-1][chosen]).float()
        loss = F.cross_entropy(logits if settling else logits.masked_fill(~used, float("-inf")), targets[chosen])
        loss.backward()
        model.lm_head.weight.grad[~used] = 0.0  # they keep their random directions, met or not
        if processes > 1:
            gradients = [p.grad for p in model.parameters() if p.grad is not None]
            flat = torch.nn.utils.parameters_to_vector(gradients)
            torch.distributed.all_reduce(flat)
            torch.nn.utils.vector_to_parameters(flat / processes, gradients)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{running:.3f}")
    print(f"final loss {running:.4f} after {time.time() - start:.0f} s")

    read, used = of_any_process(read), of_any_process(used)
    if rank > 0:
        return
    lengthen(model.get_input_embeddings().weight, read, 1.0)
    if args.settle_steps == 0:
        lengthen(model.lm_head.weight, used, HEAD_LENGTH)
    model.eval()
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)
    rng = random.Random(args.seed + 1)
    unseen = captions.generate_views(max(1, args.held_out // 6), rng)
    saved = AutoModelForImageTextToText.from_pretrained(args.output_dir)
    report = describe_accuracy(saved, AutoProcessor.from_pretrained(args.output_dir), unseen, captions, rng)
    report |= {"seed": args.seed, "steps": args.steps, "layouts": args.num_layouts, "loss": running}
    report["continued"] = args.init_from is not None
    Path(args.output_dir, "pretraining.json").write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def of_any_process(tokens: torch.Tensor) -> torch.Tensor:
    """Tokens [V] that any process has met."""
    if torch.distributed.is_initialized():
        tokens = tokens.byte()
        torch.distributed.all_reduce(tokens, torch.distributed.ReduceOp.MAX)
    return tokens.bool()


@torch.no_grad()
def lengthen(weight: torch.Tensor, trained: torch.Tensor, length: float) -> None:
    """Give the rows [V, d] that nothing trained a length, relative to the others; their random directions stay.

    The longer those of the head, the better it can express near-certainty later on, frozen: at the usual length training on
    BabyAI is stuck at about 98% a token. Too long, and they spoil descriptions that never met them.
    """
    norms = weight.norm(dim=1, keepdim=True)
    weight[~trained] *= (length * norms[trained].mean() / norms)[~trained]


if __name__ == "__main__":
    main()
