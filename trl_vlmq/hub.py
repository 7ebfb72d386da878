# Copyright 2026 The trl_vlmq authors. Licensed under the Apache License, Version 2.0.
"""What a model or an agent consists of, here or on the Hub; and what is wrong when the Hub does not give or take it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
from huggingface_hub.constants import is_offline_mode
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,  # of the HTTP library that it uses, which changes with the version
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id


LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class HubError(OSError):
    """The Hub did not give or take something; the message names the repository, what went wrong and the cure."""


def find_file(name_or_path: str, file: str) -> Path | None:
    """A file of a saved model or adapter, downloaded if it lies on the Hub; `None` if there is no such file.

    Args:
        name_or_path (`str`):
            Folder or Hub id.
        file (`str`):
            Name of the file.

    Raises:
        HubError: if the Hub cannot tell. (Offline, what is not in the cache is taken for missing.)
    """
    if Path(name_or_path).is_dir():
        path = Path(name_or_path, file)
        return path if path.is_file() else None
    with hub_errors(f"Downloading {file} of", name_or_path):
        try:
            return Path(hf_hub_download(name_or_path, file))
        except LocalEntryNotFoundError:
            known_missing = try_to_load_from_cache(name_or_path, file) is _CACHED_NO_EXIST
            if not known_missing and not is_offline_mode():
                raise
        except EntryNotFoundError:
            pass
    return None


def is_repo_id(name: str) -> bool:
    """Whether a name could be that of a repository on the Hub, rather than a path."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


@contextmanager
def hub_errors(action: str, repo: str, *, kept: str = "") -> Iterator[None]:
    """Turns what goes wrong between here and the Hub into a [`HubError`]; other errors pass.

    Args:
        action (`str`):
            What is being done, up to the name of the repository.
        repo (`str`):
            Its name.
        kept (`str`, *optional*, defaults to `""`):
            What has not been lost, and how to go on.
    """
    try:
        yield
    except HubError as error:
        raise (HubError(f"{error} {kept}") if kept else error) from error.__cause__
    except Exception as error:
        reason = _reason(error, repo)
        if reason is None:
            raise
        raise HubError(f"{action} {repo} failed: {reason} {kept}".rstrip()) from error


def _reason(error: Exception, repo: str) -> str | None:
    """What is wrong and what to do; `None` if it is not about the Hub."""
    chain = [error]  # libraries wrap what happened
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    for cause in chain:
        if isinstance(cause, HfHubHTTPError):
            return _refusal(cause, repo)
        if isinstance(cause, OfflineModeIsEnabled):
            return "HF_HUB_OFFLINE is set. Unset it, or name a folder."
        if isinstance(cause, (HTTPError, ConnectionError, TimeoutError)):  # the last two where it transfers by Xet
            what = " ".join(str(cause).split()) or type(cause).__name__
            return f"the Hub cannot be reached, or the connection broke ({what}). Try again once it is back."
    if str(error).startswith(
        "Error while uploading"
    ):  # what the client makes of anything that goes wrong in its threads
        return f"{str(error).rstrip('.')} ({chain[-1]}). Try again."
    return None


def _refusal(error: HfHubHTTPError, repo: str) -> str:
    status = error.response.status_code
    said = " ".join((error.server_message or "").split()).rstrip(".")
    answer = f"{status}: {said}" if said else str(status)
    if isinstance(error, GatedRepoError):
        return f"its owner has to grant access ({answer}). Ask for it on the page of {repo}, and {LOG_IN}."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"there is no such repository, or it is private and the token may not see it ({answer}). Check the name; if "
            f"it is private, {LOG_IN}, as somebody who may see it."
        )
    if status == 401:
        return (
            f"the token is wrong or missing ({answer}). Make one on the page settings/tokens of the Hub, and {LOG_IN}."
        )
    if status == 403:
        return (
            f"the token does not allow it ({answer}). Take a token with that permission, or a repository of your own."
        )
    return f"the Hub answered {answer}. Try again later."
