# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Does training harm what the base model could do? Before, with the adapter, and with the adapter switched off.

    python examples/base_capability.py --agent outputs/blackjack/afsft --domain cards

What the embedded models can do is describe pictures: exact-match accuracy on unseen ones, and the perplexity of the right
answers. With the adapter off the model must be the base bit for bit: the logits are compared, and the script fails if they
differ.
"""

import importlib
import random
from dataclasses import dataclass, field

import torch
from describing import describe_accuracy, perplexity, read_answers
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor, HfArgumentParser

from trl_vlmq.backbones import base_of_adapter


@dataclass
class CapabilityArguments:
    """What is examined."""

    agent: str = field(metadata={"help": "Folder of a trained adapter."})
    domain: str = field(default="cards", metadata={"help": "What the pictures show: babyai or cards."})
    num_views: int = field(default=500, metadata={"help": "Pictures."})
    seed: int = field(default=7, metadata={"help": "Seed of pictures and questions."})


def main() -> None:
    (args,) = HfArgumentParser(CapabilityArguments).parse_args_into_dataclasses()
    captions = importlib.import_module(f"captions_{args.domain}")
    views = captions.generate_views(max(1, args.num_views // 6), random.Random(args.seed))
    base = base_of_adapter(args.agent)
    processor = AutoProcessor.from_pretrained(base)

    def examine(model) -> tuple[dict[str, float], torch.Tensor]:
        rng = random.Random(args.seed + 1)
        scores = describe_accuracy(model, processor, views, captions, rng)
        scores["perplexity"] = perplexity(model, processor, views, captions, rng)
        return scores, read_answers(model, processor, views[:20], captions, rng)[0]

    model = AutoModelForImageTextToText.from_pretrained(base).eval()
    before, logits_before = examine(model)
    model = PeftModel.from_pretrained(model, args.agent).eval()
    trained, logits_trained = examine(model)
    with model.disable_adapter():
        after, logits_after = examine(model)

    scores = {"base": before, "adapter on": trained, "adapter off": after}
    print("| | " + " | ".join(before) + " |\n|---|" + "---|" * len(before))
    for name, numbers in scores.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in numbers.values()) + " |")
    if torch.equal(logits_trained, logits_before):
        raise SystemExit("The adapter changes nothing: is it the trained one?")
    if not torch.equal(logits_after, logits_before) or after != before:
        raise SystemExit("With the adapter off the model is NOT the base.")
    print("With the adapter off the logits are those of the base, bit for bit.")


if __name__ == "__main__":
    main()
