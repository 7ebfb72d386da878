# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""How well a model describes pictures: questions and answers as conversations, accuracy, perplexity."""

import math
import random
from collections import defaultdict
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image


def conversation(view, captions: ModuleType, questions: int, rng: random.Random) -> list[dict]:
    messages = []
    for i in range(questions):
        question, answer = captions.ask(view, rng)
        messages.append(first_question(view, question) if i == 0 else {"role": "user", "content": question})
        messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages


def first_question(view, question: str) -> dict:
    """With the picture, and what is told beside it."""
    text = f"{view.text}\n{question}" if view.text else question
    return {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}


def encode(processor, conversations: list[list[dict]], image_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded input ids [B, L], and labels [B, L] that are -100 outside of the answers."""
    tokenizer = processor.tokenizer
    opening, closing = tokenizer.convert_tokens_to_ids("<|assistant|>"), tokenizer.eos_token_id
    texts = processor.apply_chat_template(conversations, tokenize=False)
    texts = [text.replace("<image>", "<image>" * image_tokens) for text in texts]
    input_ids = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")["input_ids"]
    # Inside an answer after <|assistant|> and up to and including </s>.
    opened = (input_ids == opening).cumsum(1) - (input_ids == opening).long()
    closed = (input_ids == closing).cumsum(1) - (input_ids == closing).long()
    inside = (opened > closed) & (input_ids != tokenizer.pad_token_id)
    return input_ids, input_ids.masked_fill(~inside, -100)


@torch.no_grad()
def describe_accuracy(model, processor, views: list, captions: ModuleType, rng: random.Random) -> dict[str, float]:
    """Exact-match accuracy of greedy answers, by kind of question."""
    hits: dict[str, list[bool]] = defaultdict(list)
    for start in range(0, len(views), 50):
        for question_number in range(4):
            chunk = views[start : start + 50]
            asked = [
                (captions.DESCRIBE, v.description) if question_number == 0 else captions.ask(v, rng) for v in chunk
            ]
            prompts = [[first_question(view, question)] for view, (question, _) in zip(chunk, asked, strict=True)]
            inputs = processor(
                text=processor.apply_chat_template(prompts, add_generation_prompt=True, tokenize=False),
                images=[[Image.fromarray(v.image)] for v in chunk],
                padding=True, padding_side="left", return_tensors="pt",
            )  # fmt: skip
            output = model.generate(**inputs, max_new_tokens=80, do_sample=False)
            texts = processor.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            for (question, answer), text in zip(asked, texts, strict=True):
                hits[captions.kind_of(question)].append(text == answer)
    return {f"{kind}_accuracy": float(np.mean(values)) for kind, values in hits.items()}


@torch.no_grad()
def read_answers(
    model, processor, views: list, captions: ModuleType, rng: random.Random
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [B, L - 1, V] over four questions about each view with their right answers, and the tokens [B, L - 1] that
    follow, -100 outside of the answers."""
    conversations = [conversation(view, captions, 4, rng) for view in views]
    input_ids, labels = encode(processor, conversations, model.config.image_seq_length)
    images = [Image.fromarray(view.image) for view in views]
    pixels = processor.image_processor(images, return_tensors="pt")["pixel_values"]
    mask = (input_ids != processor.tokenizer.pad_token_id).long()
    return model(input_ids=input_ids, attention_mask=mask, pixel_values=pixels).logits[:, :-1], labels[:, 1:]


def perplexity(model, processor, views: list, captions: ModuleType, rng: random.Random, batch_size: int = 50) -> float:
    """Of the right answers to four questions about each view: exp of the mean loss of their tokens."""
    total, count = 0.0, 0
    for start in range(0, len(views), batch_size):
        logits, labels = read_answers(model, processor, views[start : start + batch_size], captions, rng)
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        count += int((labels != -100).sum())
    return math.exp(total / count)
