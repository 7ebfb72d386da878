# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""A vLLM server, over its HTTP API: adapters that come and go, and chat completions as tokens."""

from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry


class VLLMError(RuntimeError):
    """A vLLM server cannot be reached, or refuses; the message names the cure."""


class VLLMClient:
    """
    A vLLM server that holds the base model and is given the agent's adapter. (Ours; the paper does not say how it played.)

    The server is started apart, in an environment of its own, where the folder of the adapters can be read:

    ```bash
    VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank 64
    ```

    Args:
        base_url (`str`, *optional*, defaults to `"http://localhost:8000"`):
            Its address.
        api_key (`str`, *optional*):
            What the server was given as `--api-key`.
        timeout (`float`, *optional*, defaults to `300.0`):
            Seconds to wait for an answer; an action that is lost is asked for three times more.

    Raises:
        ValueError: names the argument that cannot be.
    """

    def __init__(self, base_url: str = "http://localhost:8000", *, api_key: str | None = None, timeout: float = 300.0):
        if not base_url.startswith(("http://", "https://")):
            raise ValueError(f"base_url={base_url!r} must begin with http:// or https://.")
        if timeout <= 0:
            raise ValueError(f"timeout={timeout} must be a positive number of seconds.")
        self.base_url, self.timeout = base_url.rstrip("/").removesuffix("/v1"), timeout
        self._session = requests.Session()
        if api_key is not None:
            self._session.headers["Authorization"] = f"Bearer {api_key}"
        # An action asked for twice is the same (seeds), so one that was lost on its way is asked for again. An adapter is not.
        retries = Retry(
            3, backoff_factor=0.5, status_forcelist=[502, 503], allowed_methods=None, raise_on_status=False
        )
        self._session.mount(f"{self.base_url}/v1/chat/", HTTPAdapter(pool_maxsize=256, max_retries=retries))

    def models(self) -> list[str]:
        """Names of what the server serves, base model and adapters.

        Raises:
            VLLMError: if no server answers there.
        """
        return [model["id"] for model in self._call("GET", "/v1/models").json()["data"]]

    def load_adapter(self, name: str, path: str) -> None:
        """Have the server read an adapter.

        Args:
            name (`str`):
                The model's name in requests from then on.
            path (`str`):
                Its folder, as the server sees it.

        Raises:
            VLLMError: with what the server says.
        """
        self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload_adapter(self, name: str) -> None:
        """Have the server forget an adapter.

        Raises:
            VLLMError: with what the server says, if there is none of that name for one.
        """
        self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def chat(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer of `/v1/chat/completions`.

        Args:
            request (`dict`):
                Its body; see vLLM's documentation.

        Raises:
            VLLMError: with what the server says.
        """
        return self._call("POST", "/v1/chat/completions", request).json()

    def _call(self, method: str, route: str, body: dict[str, Any] | None = None) -> requests.Response:
        try:
            answer = self._session.request(method, self.base_url + route, json=body, timeout=(10, self.timeout))
        except requests.RequestException as error:
            raise VLLMError(
                f"The vLLM server at {self.base_url} did not answer {method} {route} ({error}). Start one with "
                "`VLLM_ALLOW_RUNTIME_LORA_UPDATING=True vllm serve MODEL --enable-lora --max-lora-rank RANK`, or correct "
                "base_url."
            ) from error
        if answer.ok:
            return answer
        if answer.status_code == 404 and route.endswith("lora_adapter") and "detail" in answer.text.lower():
            cure = "Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, and --enable-lora."
        elif answer.status_code == 401:
            cure = "Give api_key what the server was given as --api-key."
        else:
            cure = "The server's own log may say more."
        raise VLLMError(f"{self.base_url}{route} answers {answer.status_code}: {_reason(answer)} {cure}")


def _reason(answer: requests.Response) -> str:
    """What went wrong, in the server's words."""
    try:
        content = answer.json()
        error = content.get("error", content)
        text = str(error["message"] if isinstance(error, dict) and "message" in error else error)
    except ValueError:
        text = answer.text
    return text[:1000]
