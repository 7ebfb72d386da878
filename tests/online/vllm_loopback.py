# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A server on this machine that speaks the part of vLLM's HTTP API that is used, with transformers and PEFT behind it.

It reads adapters from their folders as PEFT reads them, renders prompts with the checkpoint's own processor, and samples
with each request's seed. What differs from vLLM on purpose is what tests ask for: no routes for adapters, a key, connections
that are dropped.
"""

import base64
import io
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


class LoopbackVLLM(ThreadingHTTPServer):
    """
    Args:
        base (`str`):
            Folder of the base model.
        runtime_lora (`bool`):
            Whether adapters can be loaded, as with `VLLM_ALLOW_RUNTIME_LORA_UPDATING`.
        api_key (`str`, *optional*):
            What requests must carry.
    """

    daemon_threads = True

    def __init__(self, base: str, runtime_lora: bool = True, api_key: str | None = None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.base, self.runtime_lora, self.api_key = base, runtime_lora, api_key
        self.processor = AutoProcessor.from_pretrained(base)
        self.adapters: dict[str, PeftModel] = {}
        self.loaded: list[dict[str, torch.Tensor]] = []  # weights of each adapter, in the order of their coming
        self.requests: list[dict] = []
        self.drop = 0  # completions to come whose connection is closed without an answer
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def load(self, body: dict) -> tuple[int, str | dict]:
        name, path = body["lora_name"], body["lora_path"]
        if name in self.adapters:
            return 400, _error(f"The lora adapter '{name}' has already been loaded.")
        if not Path(path, "adapter_config.json").is_file():
            return 404, _error(f"The lora adapter '{name}' cannot be found at '{path}'.")
        model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(self.base), path).eval()
        self.adapters[name] = model
        self.loaded.append({k: v.detach().clone() for k, v in model.named_parameters() if "lora_" in k})
        return 200, f"Success: LoRA adapter '{name}' added successfully."

    def unload(self, body: dict) -> tuple[int, str | dict]:
        if self.adapters.pop(body["lora_name"], None) is None:
            return 404, _error(f"The lora adapter '{body['lora_name']}' cannot be found.")
        return 200, f"Success: LoRA adapter '{body['lora_name']}' removed successfully."

    @torch.no_grad()
    def chat(self, body: dict) -> tuple[int, dict]:
        if body["model"] not in self.adapters:
            return 404, _error(f"The model `{body['model']}` does not exist.")
        self.requests.append(body)
        model, images, messages = self.adapters[body["model"]], [], []
        for message in body["messages"]:
            parts = []
            for part in message["content"]:
                if part["type"] == "image_url":
                    data = part["image_url"]["url"].removeprefix("data:image/png;base64,")
                    images.append(Image.open(io.BytesIO(base64.b64decode(data))))
                    part = {"type": "image"}
                parts.append(part)
            messages.append({**message, "content": parts})
        text = self.processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        inputs = self.processor(text=text, images=images or None, add_special_tokens=False, return_tensors="pt")
        prompt = inputs["input_ids"]
        generator = torch.Generator().manual_seed(body["seed"])
        ids, logprobs = [], []
        while len(ids) < body["max_completion_tokens"] and not (ids and ids[-1] in body["stop_token_ids"]):
            seen = torch.cat([prompt, torch.tensor([ids], dtype=torch.long)], dim=1)
            logits = model(**{**inputs, "input_ids": seen, "attention_mask": torch.ones_like(seen)}).logits[0, -1]
            raw, biased = logits.log_softmax(-1), logits.clone()
            for token, bias in body.get("logit_bias", {}).items():
                biased[int(token)] += bias
            if body["temperature"] == 0:
                token = biased.argmax()
            else:
                token = torch.multinomial((biased / body["temperature"]).softmax(-1), 1, generator=generator)
            ids.append(int(token))
            logprobs.append({"token": "", "logprob": float(raw[ids[-1]])})
        choice = {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": self.processor.tokenizer.decode(ids, skip_special_tokens=True),
            },
            "logprobs": {"content": logprobs} if body["logprobs"] else None,
            "finish_reason": "stop" if ids[-1] in body["stop_token_ids"] else "length",
            "token_ids": ids if body["return_token_ids"] else None,
        }
        return 200, {"choices": [choice], "prompt_token_ids": prompt[0].tolist() if body["return_token_ids"] else None}


def _error(message: str) -> dict:
    return {"error": {"message": message, "type": "BadRequestError", "code": 400}}


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackVLLM

    def do_GET(self):
        names = [self.server.base, *self.server.adapters]
        self._answer("/v1/models", lambda: (200, {"object": "list", "data": [{"id": name} for name in names]}))

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/v1/chat/completions" and self.server.drop > 0:
            self.server.drop -= 1
            self.close_connection = True
            return
        route = {"/v1/chat/completions": self.server.chat}
        if self.server.runtime_lora:
            route |= {"/v1/load_lora_adapter": self.server.load, "/v1/unload_lora_adapter": self.server.unload}
        work = route.get(self.path)
        self._answer(self.path, (lambda: work(body)) if work else (lambda: (404, {"detail": "Not Found"})))

    def _answer(self, path: str, work: Callable[[], tuple[int, str | dict]]) -> None:
        with self.server.lock:
            if self.server.api_key not in (None, self.headers.get("Authorization", "").removeprefix("Bearer ")):
                status, content = 401, {"error": "Unauthorized"}
            elif self.path != path:
                status, content = 404, {"detail": "Not Found"}
            else:
                status, content = work()
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass
