"""The object storage beside the Hub: Git LFS, with whole objects and objects in parts."""

from __future__ import annotations

import hashlib
from math import ceil
from typing import Any

from . import xet
from .messages import Answer, HubError, Request, content, reply
from .state import Hub


def address(hub: Hub, sha256: str) -> str:
    """Where an object is read and written."""
    return f"{hub.storage_url}/objects/{sha256}"


def instructions(hub: Hub, repository: str, wanted: Any) -> dict[str, Any]:
    """Answer a batch request: for each object how to send it, nothing for one that is there."""
    multipart = "multipart" in wanted["transfers"]
    objects = [_instruction(hub, repository, one, multipart=multipart) for one in wanted["objects"]]
    return {"transfer": "multipart" if multipart else "basic", "objects": objects}


def _instruction(hub: Hub, repository: str, wanted: Any, *, multipart: bool) -> dict[str, Any]:
    sha256, size = wanted["oid"], wanted["size"]
    if sha256 in hub.objects:
        return {"oid": sha256, "size": size}
    verify = {"href": f"{hub.url}/{repository}.git/info/lfs/objects/verify"}
    upload = {"href": address(hub, sha256)}
    if multipart and size > hub.part_size:
        upload = _in_parts(hub, sha256, size)
    return {"oid": sha256, "size": size, "authenticated": True, "actions": {"upload": upload, "verify": verify}}


def _in_parts(hub: Hub, sha256: str, size: int) -> dict[str, Any]:
    numbers = range(1, ceil(size / hub.part_size) + 1)
    parts = {f"{number:05}": f"{address(hub, sha256)}/{number}" for number in numbers}
    return {"href": f"{hub.url}/api/complete/{sha256}", "header": {"chunk_size": str(hub.part_size), **parts}}


def unsigned(request: Request) -> Request:
    """The storage's addresses carry their own permission; it refuses the Hub's token on top, as S3 does."""
    if "authorization" in request.headers:
        raise HubError(400, "Only one auth mechanism allowed")
    return request


def held(hub: Hub, sha256: str) -> bytes | None:
    """An object that was received, or that the client put into the Xet storage."""
    if sha256 not in hub.objects and (found := xet.fetch(hub, sha256)) is not None:
        _keep(hub, sha256, found)
    return hub.objects.get(sha256)


def put(hub: Hub, request: Request) -> Answer:
    """Receive a whole object."""
    _keep(hub, request.names["sha256"], request.body)
    return _received(request.body)


def put_part(hub: Hub, request: Request) -> Answer:
    """Receive a part of an object."""
    hub.parts[request.names["sha256"], int(request.names["part"])] = request.body
    return _received(request.body)


def complete(hub: Hub, request: Request) -> Answer:
    """Join an object's parts."""
    sha256 = request.names["sha256"]
    pieces = [hub.parts.get((sha256, part["partNumber"]), b"") for part in request.json["parts"]]
    if [part["etag"] for part in request.json["parts"]] != [_etag(piece) for piece in pieces]:
        raise HubError(400, "One or more of the specified parts could not be found")
    _keep(hub, sha256, b"".join(pieces))
    return reply({"success": True})


def confirm(hub: Hub, wanted: Any) -> Answer:
    """Confirm that an object arrived whole."""
    held = hub.objects.get(wanted["oid"])
    if held is None or len(held) != wanted["size"]:
        raise HubError(404, "Object not found")
    return reply({"message": "Verified"})


def get(hub: Hub, request: Request) -> Answer:
    """Give an object, or a range of it."""
    held = hub.objects.get(request.names["sha256"])
    if held is None:
        raise HubError(404, "Object not found")
    return content(held, {"ETag": _etag(held)}, request.headers.get("range"))


def _keep(hub: Hub, sha256: str, data: bytes) -> None:
    if hashlib.sha256(data).hexdigest() != sha256:
        raise HubError(400, "The SHA-256 you specified did not match what we received")
    hub.receive(sha256, data)


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


def _received(data: bytes) -> Answer:
    return Answer(200, {"ETag": _etag(data)})
