# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Prompts of MoonDream2: one image at the beginning, then questions and answers."""

from transformers import PreTrainedTokenizerBase, ProcessorMixin

from .image_processing import MoonDream2ImageProcessor


IMAGE_TOKEN = "<image>"

# The image, wherever it stands in the messages, comes first, as in every prompt of the original. A system message, which
# the original does not know, stands before the question. eos ends the last answer; between an earlier answer and the next
# question there is none, as in the original's chats.
_TEMPLATE = (
    "{{ BOS }}"
    "{% for message in messages %}{% if message['content'] is not string %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ IMAGE }}{% endfor %}"
    "{% endif %}{% endfor %}"
    "{% for message in messages %}"
    "{% set said = namespace(text='') %}"
    "{% if message['content'] is string %}{% set said.text = message['content'] %}"
    "{% else %}{% for part in message['content'] if part['type'] == 'text' %}"
    "{% set said.text = said.text + part['text'] %}{% endfor %}{% endif %}"
    "{% if message['role'] == 'system' %}{{ '\\n\\n' + said.text }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ AFTER_QUESTION + BEFORE_ANSWER + said.text }}{% if loop.last %}{{ EOS }}{% endif %}"
    "{% else %}{{ BEFORE_QUESTION + said.text }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ AFTER_QUESTION }}{% endif %}"
)


def question_template(tokenizer: PreTrainedTokenizerBase, before: str, after: str, answer: str) -> str:
    """A chat template of questions and answers.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Its bos begins a prompt, its eos ends an answer.
        before (`str`):
            Text before a question.
        after (`str`):
            Text after a question.
        answer (`str`):
            Text before an answer.
    """
    texts = {
        "BOS": tokenizer.bos_token,
        "EOS": tokenizer.eos_token,
        "IMAGE": IMAGE_TOKEN,
        "BEFORE_QUESTION": before,
        "AFTER_QUESTION": after,
        "BEFORE_ANSWER": answer,
    }
    return "".join(f"{{% set {name} = {text!r} %}}" for name, text in texts.items()) + _TEMPLATE


class MoonDream2Processor(ProcessorMixin):
    """Image processor and tokenizer; an image token in a text becomes as many as the image has positions.

    Args:
        image_processor ([`MoonDream2ImageProcessor`]):
            Cuts images.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            Knows the token `<image>`.
        chat_template (`str`, *optional*):
            From [`question_template`].
    """

    return_mm_token_type_ids = True  # without them a bidirectional prefix cannot be told from embeddings

    def __init__(
        self,
        image_processor: MoonDream2ImageProcessor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
    ):
        self.image_token = IMAGE_TOKEN
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        super().__init__(image_processor, tokenizer, chat_template=chat_template)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        return self.image_token * (self.image_processor.image_size // self.image_processor.patch_size) ** 2

    def validate_inputs(self, images=None, text=None, **kwargs) -> None:
        """Raises a `ValueError` if a prompt holds several images, or its image does not come first."""
        for sample in text or []:
            count = sample.count(self.image_token)
            if count > 1:
                raise ValueError(
                    f"MoonDream2 reads one image per prompt, but this one holds {count}. Show the last observation "
                    "only (a history window of 1), or join the pictures into one."
                )
            if count and not sample.startswith(self.tokenizer.bos_token + self.image_token):
                raise ValueError(
                    f"MoonDream2 reads the image first: the prompt must begin with {self.tokenizer.bos_token!r} and "
                    f"{self.image_token!r}, as the chat template writes it."
                )
        super().validate_inputs(images=images, text=text, **kwargs)
