# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What the trainer, the collator and the rollouts ask of a model: the backbone adapter."""

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from .._compat import keep_4bit_layers_trainable
from ..sharding import weights_are_sharded
from .cache import ByteLRU, SpillingLRU
from .language_head import LanguageHead, find_language_head
from .sampling import TokenSampler


@dataclass
class EncodedPrompt:
    """A prompt as tensors.

    Args:
        tokens (`dict[str, torch.Tensor]`):
            Per-token inputs, each [L]: `input_ids` and whatever else the processor aligns with them.
        vision (`dict[str, torch.Tensor]`):
            Everything else, batch dimension first.
    """

    tokens: dict[str, torch.Tensor]
    vision: dict[str, torch.Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens["input_ids"])


@dataclass
class GeneratedAction:
    """An action as the policy sampled it.

    Args:
        text (`str`):
            The text, special tokens removed.
        ids (`list[int]`):
            The exact tokens, the stop token included if it was sampled.
        stopped (`bool`):
            Whether the stop token was sampled before the length limit.
        logp (`float`):
            Sum of log pi over the tokens, in nats, at temperature 1.
    """

    text: str
    ids: list[int]
    stopped: bool
    logp: float


class Backbone(ABC):
    """Adapter between a pretrained model and the token-level view of it.

    A batch is laid out with prompts padded on the left and actions appended and padded on the right, so that the
    states and logits of action i of every row sit in the same column. The last action token is never an input: it
    predicts nothing that is needed.

    Args:
        model ([`~transformers.PreTrainedModel`] or [`~peft.PeftModel`]):
            The model; `VLMActorCritic.add_adapter` replaces it by its PEFT model.
        processor ([`~transformers.ProcessorMixin`] or [`~transformers.PreTrainedTokenizerBase`]):
            Its processor or tokenizer.

    Raises:
        ValueError: if the model has no language head, the processor no chat template, or a 4-bit model has been used on
            the CPU before.
    """

    def __init__(self, model: PreTrainedModel, processor):
        self.model = model
        self.processor = processor
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.config = model.config
        text_config = model.config.get_text_config()
        head = model.get_output_embeddings()
        if head is None:
            raise ValueError(
                f"{type(model).__name__} has no language head (get_output_embeddings() is None). Load the model with "
                "AutoModelForImageTextToText or AutoModelForCausalLM."
            )
        self.hidden_size = head.weight.shape[-1] if head.weight.dim() == 2 else text_config.hidden_size
        self.n_logits = head.weight.shape[0] if head.weight.dim() == 2 else text_config.vocab_size
        self.max_length = getattr(text_config, "max_position_embeddings", None)
        if getattr(processor, "chat_template", None) is None and self.tokenizer.chat_template is None:
            raise ValueError(
                f"The processor of {type(model).__name__} has no chat template; set `processor.chat_template`, or load "
                "the processor of an instruction-tuned checkpoint."
            )
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.pad_token_id = self.tokenizer.pad_token_id
        keep_4bit_layers_trainable(model)
        self._completion_prefix, self.stop_token_id = self._probe_template()
        self.stop_token_ids = sorted({self.stop_token_id, *self._generation_stops()})
        self._head, self._head_tried = None, False
        self._pixels = ByteLRU(limit=512 << 20)
        self._features = SpillingLRU(limit=512 << 20, file_limit=16 << 30)
        self._prompts = ByteLRU(limit=256 << 20)
        self.trainability_changed()

    def trainability_changed(self) -> None:
        """To be called after parameters were frozen or thawed: forgets what depended on them."""
        self._constant_features = self._features_are_constant()
        self._features.clear()

    @property
    def caches_features(self) -> bool:
        """Whether features of an image are computed once and remembered.

        On the CPU only: on a GPU, features of single images computed while batches are collated would cost more than
        they save, and dataloader workers cannot reach the model. Nor under ZeRO-3 and FSDP2, where no process has all
        weights while it collates.
        """
        return self._constant_features and self.model.device.type == "cpu" and not weights_are_sharded()

    # ---- What a family of models answers ----

    @property
    @abstractmethod
    def lora_target_modules(self) -> str:
        """Regular expression for PEFT: every linear layer of the language model, none of the vision tower."""

    @abstractmethod
    def encode(self, prompt: list[dict], images: Sequence[Image.Image | dict]) -> EncodedPrompt:
        """Chat messages and images -> tensors, ending where the assistant's text begins.

        Args:
            prompt (`list[dict]`):
                Messages whose content is a list of typed parts.
            images (`Sequence[PIL.Image.Image | dict]`):
                One per image part, decoded, or `{"bytes", "path"}` as `datasets` stores them.
        """

    @abstractmethod
    def _collate_vision(self, prompts: Sequence[EncodedPrompt]) -> dict[str, torch.Tensor]:
        """Vision inputs of a batch."""

    def _features_are_constant(self) -> bool:
        """Whether nothing that an image's features depend on is trained."""
        return False

    def _model_inputs(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Inputs of the model: those of a batch, with remembered image features put in their places."""
        return inputs

    @property
    @abstractmethod
    def image_token_ids(self) -> list[int]:
        """Tokens that stand for images; never an action."""

    @property
    def passes_position_ids(self) -> bool:
        """Whether the model takes one-dimensional positions; others derive their own from the mask."""
        return True

    @property
    def action_fill(self) -> dict[str, int]:
        """Values of the per-token inputs, beside `input_ids`, on action tokens; 0 where nothing is said."""
        return {}

    # ---- Tokens ----

    def valid_token_mask(self) -> torch.Tensor:
        """Tokens that an action may consist of, bool [n_logits]: no padded rows, no image tokens."""
        mask = torch.zeros(self.n_logits, dtype=torch.bool)
        mask[: len(self.tokenizer)] = True
        mask[[i for i in self.image_token_ids if i < self.n_logits]] = False
        return mask

    def completion_ids(self, text: str) -> list[int]:
        """Tokens of an action text, its stop token last; an empty text is one token: stop."""
        text = self._completion_prefix + text if text else ""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.stop_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Action text of sampled tokens."""
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.removeprefix(self._completion_prefix)

    def render(self, prompt: list[dict]) -> str:
        """The prompt as text, up to where the assistant's text begins."""
        return self._apply_template(prompt, add_generation_prompt=True)

    # ---- Batches ----

    def collate(
        self, prompts: Sequence[EncodedPrompt], actions: Sequence[Sequence[int]] | None = None
    ) -> dict[str, torch.Tensor]:
        """Model inputs [B, P + n - 1] for B prompts and their actions of at most n tokens (none: [B, P])."""
        width = max(len(prompt) for prompt in prompts)
        columns: dict[str, list[torch.Tensor]] = {}
        for prompt in prompts:
            for name, values in {**prompt.tokens, "attention_mask": torch.ones(len(prompt), dtype=torch.long)}.items():
                pad = self.pad_token_id if name == "input_ids" else 0
                columns.setdefault(name, []).append(
                    torch.nn.functional.pad(values, (width - len(prompt), 0), value=pad)
                )
        batch = {name: torch.stack(rows) for name, rows in columns.items()}
        if actions is not None:
            inputs = [torch.tensor(action[:-1], dtype=torch.long) for action in actions]
            ids = pad_sequence(inputs, batch_first=True, padding_value=self.pad_token_id)
            mask = pad_sequence([torch.ones_like(i) for i in inputs], batch_first=True)
            for name, block in batch.items():
                tail = {"input_ids": ids, "attention_mask": mask}.get(name)
                if tail is None:
                    tail = torch.full_like(ids, self.action_fill.get(name, 0))
                batch[name] = torch.cat([block, tail.to(block.dtype)], dim=1)
        if self.passes_position_ids:
            batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return batch | self._collate_vision(prompts)

    def forward(self, inputs: dict[str, torch.Tensor], keep: int) -> tuple[torch.Tensor, torch.Tensor]:
        """States [B, keep, hidden_size] and logits [B, keep, n_logits] of the last `keep` columns.

        The states are what the language head really reads (a hook on it), the logits what the model really returns:
        scaling, soft caps and narrowed heads are the model's business.
        """
        states = []
        logits = self._run(inputs, keep, lambda read: states.append(read))
        return states[-1][:, -keep:], logits[:, -keep:]

    def states(self, inputs: dict[str, torch.Tensor], keep: int) -> torch.Tensor:
        """States [B, keep, hidden_size] of the last `keep` columns; the head is given nothing to do."""
        states = []

        def take(read: torch.Tensor) -> torch.Tensor:
            states.append(read)
            return read[:, :0]

        self._run(inputs, keep, take)
        return states[-1][:, -keep:]

    def language_head(self, inputs: dict[str, torch.Tensor]) -> LanguageHead | None:
        """The head as a formula, if it has one: tried once, on a forward of these inputs whose states are replaced."""
        module = self.model.get_output_embeddings()
        if not self._head_tried:
            self._head, self._head_tried = self._try_head(inputs), True
        return self._head and replace(self._head, weight=module.weight, bias=getattr(module, "bias", None))

    def _try_head(self, inputs: dict[str, torch.Tensor]) -> LanguageHead | None:
        def logits_of(states: torch.Tensor) -> torch.Tensor:
            rows = len(inputs["input_ids"])
            repeated = states[None].expand(rows, -1, -1)
            return self._run(inputs, 1, lambda read: repeated.to(read.dtype))[0]

        training = self.model.training
        self.model.eval()  # no dropout: a run that goes on from a checkpoint tries the head once more
        try:
            return find_language_head(self._base, self.config.get_text_config(), logits_of)
        finally:
            self.model.train(training)
            # Autocast remembers weights as this forward, without gradient, has cast them; under FSDP2 the next one took those.
            torch.clear_autocast_cache()

    def _run(
        self, inputs: dict[str, torch.Tensor], keep: int, at_head: Callable[[torch.Tensor], torch.Tensor | None]
    ) -> torch.Tensor:
        """Logits of a forward whose head reads what `at_head` makes of the states (`None`: themselves)."""

        def hook(_, args: tuple[torch.Tensor]) -> tuple[torch.Tensor] | None:
            replaced = at_head(args[0])
            return None if replaced is None else (replaced,)

        handle = self.model.get_output_embeddings().register_forward_pre_hook(hook)
        try:
            model_inputs = self._model_inputs(inputs)
            if "inputs_embeds" in model_inputs:
                model_inputs.pop("input_ids")
            return self.model(**model_inputs, logits_to_keep=keep, use_cache=False).logits
        finally:
            handle.remove()

    @torch.no_grad()
    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        uniforms: Callable[[int], torch.Tensor] | None = None,
        epsilon: float = 0.0,
        mask_invalid_tokens: bool = True,
    ) -> list[GeneratedAction]:
        """Act on a batch of prompts.

        Args:
            prompts (`Sequence[EncodedPrompt]`):
                The prompts.
            max_new_tokens (`int`):
                Limit of an action's length.
            temperature (`float`, *optional*, defaults to `0.0`):
                0 is greedy.
            uniforms (`Callable[[int], torch.Tensor]`, *optional*):
                Token position -> float64 [B] in [0, 1), the only source of randomness; needed when `temperature` > 0
                or `epsilon` > 0.
            epsilon (`float`, *optional*, defaults to `0.0`):
                Probability of each token to be drawn uniformly from the valid ones.
            mask_invalid_tokens (`bool`, *optional*, defaults to `True`):
                Never sample what [`Backbone.valid_token_mask`] excludes.
        """
        device = self.model.device
        inputs = {name: tensor.to(device) for name, tensor in self.collate(prompts).items()}
        inputs.pop("position_ids", None)  # generate() derives the same ones from the mask
        sampler = TokenSampler(
            self.valid_token_mask().to(device) if mask_invalid_tokens else None, temperature, uniforms, epsilon
        )
        training = self.model.training
        self.model.eval()
        # A checkpoint's own settings (a repetition penalty, beams) would fill what is left open below and act before
        # the sampler; the policy is the model's logits and nothing else.
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        shipped, base.generation_config = base.generation_config, GenerationConfig()
        try:
            output = self.model.generate(
                **self._model_inputs(inputs),
                generation_config=GenerationConfig(
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    eos_token_id=self.stop_token_ids,
                    pad_token_id=self.pad_token_id,
                ),
                logits_processor=LogitsProcessorList([sampler]),
                synced_gpus=False,  # sharded weights are gathered first, and processes play apart
            )
        finally:
            base.generation_config = shipped
            self.model.train(training)
        logps = torch.stack(sampler.logps, dim=1)
        actions = []
        for row, row_logps in zip(output[:, inputs["input_ids"].shape[1] :].tolist(), logps, strict=True):
            stop = next((i for i, token in enumerate(row) if token in self.stop_token_ids), None)
            ids = row if stop is None else row[: stop + 1]
            logp = row_logps[: len(ids)].sum().item()
            actions.append(GeneratedAction(self.decode(ids), ids, stop is not None, logp))
        return actions

    # ---- Helpers of the families ----

    @property
    def _base(self) -> PreTrainedModel:
        """The model without its adapter."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def image_key(self, image: Image.Image | dict) -> bytes:
        """Content key of an image."""
        if isinstance(image, dict):
            content = image["bytes"] if image.get("bytes") is not None else image["path"].encode()
        else:
            content = f"{image.mode}{image.size}".encode() + image.tobytes()
        return hashlib.blake2b(content, digest_size=16).digest()

    def open_image(self, image: Image.Image | dict) -> Image.Image:
        """Decode an image as `datasets` stores it."""
        if isinstance(image, dict):
            image = Image.open(io.BytesIO(image["bytes"]) if image.get("bytes") is not None else image["path"])
        return image.convert("RGB")

    def check_length(self, prompt: EncodedPrompt, completion_length: int, where: str) -> None:
        """Refuse what does not fit into the model's context; nothing is ever cut."""
        if self.max_length is not None and len(prompt) + completion_length > self.max_length:
            raise ValueError(
                f"{where}: the prompt has {len(prompt)} tokens and the completion {completion_length}, more than the "
                f"context of {self.max_length} tokens. Shorten the history window or use smaller or fewer images; "
                "prompts are never cut, since a cut inside image tokens would corrupt them."
            )

    def _apply_template(self, messages: list[dict], **kwargs) -> str:
        messages = [
            {**message, "content": [{k: v for k, v in part.items() if v is not None} for part in message["content"]]}
            if not isinstance(message["content"], str)
            else message
            for message in messages
        ]
        return self.processor.apply_chat_template(messages, tokenize=False, **kwargs)

    def _probe_template(self) -> tuple[str, int]:
        """What the template writes before the assistant's text, and the token that ends its turn."""
        user = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
        answer = [{"role": "assistant", "content": [{"type": "text", "text": "@@answer@@"}]}]
        prompt = self._apply_template(user, add_generation_prompt=True)
        whole = self._apply_template(user + answer)
        if not whole.startswith(prompt) or "@@answer@@" not in whole:
            return "", self.tokenizer.eos_token_id
        prefix, suffix = whole[len(prompt) :].split("@@answer@@", 1)
        after = self.tokenizer(suffix, add_special_tokens=False)["input_ids"] if suffix else []
        special = set(self.tokenizer.all_special_ids) | set(getattr(self.tokenizer, "added_tokens_decoder", {}))
        return prefix, next((token for token in after if token in special), self.tokenizer.eos_token_id)

    def _generation_stops(self) -> list[int]:
        stops = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        return [] if stops is None else [stops] if isinstance(stops, int) else list(stops)

    @staticmethod
    def prompt_key(prompt: list[dict], extra: tuple = ()) -> str:
        return json.dumps([prompt, extra], sort_keys=True)
