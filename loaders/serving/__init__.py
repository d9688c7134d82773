"""A model behind OpenAI's protocol: `serve`, and `make_app` for a server of one's own. Needs the extra `serve`.

Requests come from strangers. What they may reach is said in `guard.py` (the server), `request.py` (the model) and
`media/fence.py` (files and hosts); one thread computes, `worker.py`, and only so many wait for it, `chat.py`.
"""

from __future__ import annotations

from ...schemas.errors import UsageError

try:
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
except ImportError:
    raise UsageError(
        "starlette and uvicorn are not installed", where="serve", fix="pip install 'g4convert[serve]'"
    ) from None

from .app import make_app
from .options import ServeOptions
from .server import Server, bind, serve
from .worker import Worker

__all__ = ["ServeOptions", "Server", "Worker", "bind", "make_app", "serve"]
