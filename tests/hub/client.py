"""The Hub's client, kept away from the user's cache, token and proxies, and from waiting."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _detect_agent, _http, _xet

NOWHERE = "http://127.0.0.1:1"
SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE", "HF_OIDC_ID_TOKEN")
UPLOADS = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")


def isolate(
    monkeypatch: pytest.MonkeyPatch, folder: Path, endpoint: str = NOWHERE, *, xet: bool = False
) -> list[float]:
    """Give the client a home below `folder`; returns the seconds that it would have waited between its tries.

    Args:
        monkeypatch: Undoes it all.
        folder: Where cache and token would be.
        endpoint: The Hub for calls that name none, such as `ModelCard.validate`.
        xet: Whether it may send large files by `hf_xet`, as it does of itself; else it sends them by Git LFS.
    """
    for name in SECRETS:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment(folder, endpoint, xet=xet).items():
        monkeypatch.setenv(name, value)
    for name, setting in _settings(folder, endpoint, xet=xet).items():
        monkeypatch.setattr(constants, name, setting)
    monkeypatch.setattr(_detect_agent, "_registry", _detect_agent._EMPTY_REGISTRY)
    monkeypatch.setattr(_xet, "_GLOBAL_XET_HOLDER", _xet.XetSessionHolder())
    _forget_proxies()
    return _without_waiting(monkeypatch)


def environment(folder: Path, endpoint: str = NOWHERE, *, xet: bool = False) -> dict[str, str]:
    """The same for a process of its own: what to set in its environment, beside leaving out `SECRETS`."""
    return {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder),
        "HF_HUB_DISABLE_XET": "" if xet else "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "0",
        "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "2",
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",
        "NO_PROXY": "127.0.0.1",
    }


def _settings(folder: Path, endpoint: str, *, xet: bool) -> dict[str, object]:
    return {
        "ENDPOINT": endpoint,
        "HUGGINGFACE_CO_URL_TEMPLATE": endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(folder),
        "HF_HUB_CACHE": str(folder / "hub"),
        "HF_XET_CACHE": str(folder / "xet"),
        "AGENT_HARNESSES_PATH": str(folder / ".agent_harnesses.json"),
        "HF_TOKEN_PATH": str(folder / "token"),
        "HF_STORED_TOKENS_PATH": str(folder / "stored_tokens"),
        "HF_HUB_DISABLE_XET": not xet,
        "HF_HUB_OFFLINE": False,
    }


@cache
def _forget_proxies() -> None:
    """Let the client open its session anew, once: it reads proxies, and slowly all certificates, when it does."""
    _http.close_session()


def _without_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    waits: list[float] = []
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=waits.append, monotonic=time.monotonic))
    return waits
