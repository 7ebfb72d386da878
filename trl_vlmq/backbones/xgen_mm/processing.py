# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""Text and images of a conversation -> inputs of an xGen-MM."""

from transformers.processing_utils import ProcessorMixin


# As in the published examples: Phi-3's turns, and a system message that is there when no other is given. An image part
# becomes the placeholder and a line break, wherever it stands among the parts of a turn. The space at the beginning is
# the token that the tokenizer of the training, Llama's slow one with `legacy=False`, puts before the first turn.
CHAT_TEMPLATE = (
    "{{ ' ' }}"
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|system|>\\nA chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user\\'s questions.<|end|>\\n' }}"
    "{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<image>\\n' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{{ '<|end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
)


class XGenMMProcessor(ProcessorMixin):
    """Processor of [`XGenMMForConditionalGeneration`]: writes as many `<image>` tokens as each image becomes.

    Args:
        image_processor ([`XGenMMImageProcessorPil`]):
            Cuts images into crops.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]):
            A tokenizer that knows `<image>`.
        num_image_tokens (`int`, *optional*, defaults to `128`):
            Tokens that one crop becomes, as in [`XGenMMConfig`].
        chat_template (`str`, *optional*):
            By default that of the published examples.
    """

    def __init__(self, image_processor=None, tokenizer=None, num_image_tokens=128, chat_template=None, **kwargs):
        self.num_image_tokens = num_image_tokens
        self.image_token = "<image>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        super().__init__(image_processor, tokenizer, chat_template=chat_template or CHAT_TEMPLATE)

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        rows, columns = image_inputs["image_grids"][image_idx]
        return self.image_token * (self.num_image_tokens * (1 + int(rows) * int(columns)))
