"""A Dask cluster that makes the shards; its machines share the folders of the source and of the output."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..schemas.errors import ExecutorError, UsageError
from .manifest import package_version

if TYPE_CHECKING:
    from distributed import Client

OPTION = "--dask"
ADDRESS = re.compile(r"(tcp|tls)://(\[[0-9A-Fa-f:]+\]|[^\s/:]+):\d{1,5}")
# Until somebody has answered.
SECONDS = 5


@contextmanager
def cluster(address: str) -> Iterator[Executor]:
    """The workers of a cluster, as an executor; what they have not finished is called off at the end.

    Args:
        address: of the scheduler, `tcp://host:port` or `tls://host:port`.

    Raises:
        UsageError: the address is none, or the extra `dask` is not installed.
        ExecutorError: nobody answers there, there are no workers, or they have another g4convert.
    """
    if ADDRESS.fullmatch(address) is None:
        raise UsageError(f"{address!r} is no address of a scheduler", where=OPTION, fix="write it like tcp://host:8786")
    try:
        from distributed import Client
    except ImportError:
        raise UsageError("Dask is not installed", where=OPTION, fix="pip install 'g4convert[dask]'") from None
    for logger in ("distributed", "distributed.client"):  # what goes wrong is raised, as one line
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    _check_scheduler(address)
    with Client(address, timeout=SECONDS, set_as_default=False) as client:
        _check_workers(client)
        executor = client.get_executor(pure=False)
        try:
            yield executor
        finally:
            executor.shutdown(wait=False)


def _check_scheduler(address: str) -> None:
    """Ask who is there: the client itself would wait forever for somebody who says nothing."""
    try:
        identity = asyncio.run(_ask(address))
    except Exception as error:  # whatever a stranger's answer is taken for
        fix = "start one with: dask scheduler"
        raise ExecutorError("no Dask scheduler answers there", where=address, fix=fix) from error
    if identity.get("type") != "Scheduler":
        raise ExecutorError("it is no scheduler", where=address, fix="give the address that the workers were given")


async def _ask(address: str) -> Mapping[str, Any]:
    from distributed import rpc

    async with asyncio.timeout(SECONDS), rpc(address) as scheduler:
        identity: Mapping[str, Any] = await scheduler.identity()
        return identity


def _check_workers(client: Client) -> None:
    """Bytes are the same only where g4convert is."""
    ours = package_version()
    versions: Any = client.get_versions(packages=["g4convert"])
    if not versions["workers"]:
        raise ExecutorError("the cluster has no workers", where=OPTION, fix="start some with: dask worker ADDRESS")
    for address, found in versions["workers"].items():
        theirs = found["packages"]["g4convert"]
        if theirs != ours:
            has = "no g4convert" if theirs is None else f"g4convert {theirs}"
            raise ExecutorError(f"has {has}, and this is {ours}", where=f"the worker {address}", fix="install the same")
