"""The server's end in Flower's own environment: a SuperLink without apps, told what to send over a pipe.

Runs with the one version of `flwr` only: it uses modules that Flower calls private. Of the SuperLink's interfaces the
port has eight calls of the Fleet interface, which carry messages of nodes; those that start runs or fetch code are not
there.
A node belongs to the hospital that the certificate of its connection names, and may speak for itself alone.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import os
import socket
import ssl
import sys
import threading
import time
from typing import Any

import uvicorn
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, SUPERLINK_NODE_ID
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.main import create_app
from google.protobuf.message import DecodeError
from uvicorn.protocols.http.h11_impl import H11Protocol

from tff_hospitals.deployment import flower_frames as frames
from tff_hospitals.deployment import flower_messages

_CALLS = frozenset(
    f"/v1/fleet/{name}"
    for name in (
        *("activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages"),
        *("pull-object", "push-object", "confirm-message-received"),
    )
)
_LOOK_SECONDS = 0.01
_KEEP_SECONDS = 10.0
_LAST_SECONDS = 10.0  # for nodes to fetch what was sent last: on a busy machine a fetch takes seconds
_ANSWER_SECONDS = 0.2
_WAITING = 8  # messages of one hospital that are held
_MOST_NODES = 10_000  # that one hospital may become, one after the other


class Named(H11Protocol):
    """A connection that knows which hospital's certificate it came with."""

    app_state: dict[str, Any]

    def connection_made(self, transport: Any) -> None:
        """Called once, after the handshake."""
        super().connection_made(transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            subject = [pair for part in tls.getpeercert().get("subject", ()) for pair in part]
            names = [value for name, value in subject if name == "commonName"]
            self.app_state = {**self.app_state, "hospital": names[0] if names else ""}


class SuperLink:
    """Flower's state with one run in it, and whose node is whose.

    Args:
      hospitals: who may take part.
      most_bytes: of a message.
      pipe: to whoever started this program.
    """

    def __init__(self, hospitals: frozenset[str], most_bytes: int, pipe: Any):
        self._hospitals, self._most_bytes, self._pipe = hospitals, most_bytes, pipe
        self.app = create_app()
        self._state = self.app.state.linkstate_factory.state()
        self._run = self._state.create_run(
            None, None, None, {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        self._task = self._state.get_run_info(run_ids=[self._run])[0].primary_task_id
        if not self._run or self._state.claim_task(self._task) is None or not self._state.activate_task(self._task):
            raise RuntimeError("Flower would not start a run")
        TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = self._run, self._task, SUPERLINK_NODE_ID
        self._lock = threading.RLock()
        self._owner: dict[bytes, tuple[str, int]] = {}  # public key: hospital and node
        self._node: dict[str, int] = {}  # the latest one of each hospital
        self._became: dict[str, int] = dict.fromkeys(hospitals, 0)
        self._greeted: set[int] = set()
        self._asked: dict[str, str] = {}  # message: hospital
        self._arriving: dict[str, Any] = {}  # message: reply whose objects are on their way

    # -- the port ---------------------------------------------------------------

    async def fleet(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """The eight calls, for nodes of hospitals; everything else is refused before Flower sees it."""
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        code, body = 0, bytearray()
        if scope["method"] != "POST" or scope["path"] not in _CALLS:
            code = 404
        elif not length.isdigit() or int(length) > flower_messages.BODY_BYTES:
            code = 413
            tell(self._pipe, frames.DROPPED)
        else:
            more = True
            while more and len(body) <= flower_messages.BODY_BYTES:
                part = await receive()
                body += part.get("body", b"")
                more = part.get("more_body", False) and part["type"] == "http.request"
            hospital = scope.get("state", {}).get("hospital", headers.get(b"hospital", b"").decode(errors="replace"))
            if more or not self._may(hospital, scope["path"], headers, bytes(body)):
                code = 403
        if code:
            await send({"type": "http.response.start", "status": code, "headers": [(b"connection", b"close")]})
            await send({"type": "http.response.body", "body": b""})
            return
        whole = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Any:
            return whole.pop() if whole else await receive()

        await self.app({**scope, "app": self.app}, replay, send)

    def _may(self, hospital: str, path: str, headers: dict[bytes, bytes], body: bytes) -> bool:
        """Whether a node of this hospital may make a call; Flower checks besides that it holds its key."""
        try:
            key = base64.b64decode(headers[FLEET_HTTP_PUBLIC_KEY_HEADER.encode()], validate=True)
        except (KeyError, binascii.Error):
            return False
        with self._lock:
            if path.endswith("/activate-node") and key not in self._owner:
                return self._register(hospital, key)
            owner, node = self._owner.get(key, ("", 0))
            if not owner or owner != hospital or self._node.get(hospital) != node:
                return False
        if path.endswith("/push-messages"):
            try:
                asked = PushMessagesRequest.FromString(body)
            except DecodeError:
                return False
            most = flower_messages.most_objects(2 * self._most_bytes)  # some replies hold more than one message
            trees = [list(iterate_object_tree(tree)) for tree in asked.message_object_trees]
            if len(trees) != 1 or len(trees[0]) > most:
                return False
            return all(one.metadata.src_node_id == node for one in asked.messages_list)
        return True

    def _register(self, hospital: str, key: bytes) -> bool:
        """A new node takes the place of the hospital's older one: a line that died unseen must not keep it out."""
        if hospital not in self._hospitals or self._became[hospital] >= _MOST_NODES:
            return False
        self._became[hospital] += 1
        node = self._state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, key, 0, name=hospital)
        older = self._node.get(hospital)
        if older is not None:
            self._state.deactivate_node(older)
        self._owner = {known: owner for known, owner in self._owner.items() if owner[0] != hospital}
        self._owner[key], self._node[hospital] = (hospital, node), node
        for message in [message for message, of in self._asked.items() if of == hospital]:
            self._forget(message)
        return True

    # -- messages ---------------------------------------------------------------

    def push(self, hospital: str, data: bytes) -> None:
        """Leaves a message for a hospital's node; it is lost where too many wait there."""
        with self._lock:
            node = self._node.get(hospital)
            if node is None or sum(of == hospital for of in self._asked.values()) > _WAITING:
                return
            message = Message(flower_messages.content(data), node, "query")
            tree, objects = flower_messages.finished(message)
            session = self._state.start_session(self._run)
            bare = remove_content_from_message(message)
            stored, missing = self._state.store_message_and_object_tree(bare, tree, session)
            if stored:
                for name in missing:
                    self._state.store_object(self._run, session, name, objects[name])
                self._asked[message.metadata.message_id] = hospital

    def pump(self) -> None:
        """Greets nodes that came, and hands on what they reply; does not return."""
        there: tuple[str, ...] = ()
        kept = time.monotonic()
        while True:
            if time.monotonic() - kept > _KEEP_SECONDS:
                self._state.acknowledge_task_heartbeat(self._task)
                kept = time.monotonic()
            with self._lock:
                online = self._state.get_nodes(self._run)
                now = tuple(sorted(name for name, node in self._node.items() if node in online))
                for name in now:
                    if self._node[name] not in self._greeted:
                        self._greeted.add(self._node[name])
                        self.push(name, b"")  # its reply is what the hospital has to say of itself
                if now != there:
                    there = now
                    tell(self._pipe, frames.PRESENT, "", json.dumps(there).encode())
                if self._asked:
                    for reply in self._state.get_message_res(message_ids=set(self._asked), run_id=self._run):
                        self._arriving[reply.metadata.reply_to_message_id] = reply
                for asked, reply in list(self._arriving.items()):
                    self._take(asked, reply)
            time.sleep(_LOOK_SECONDS)

    def flush(self, seconds: float) -> None:
        """Waits until nodes have fetched what was left for them."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self._lock:
                online = self._state.get_nodes(self._run)
                there = {name for name, node in self._node.items() if node in online}
                left = [one for one, of in self._asked.items() if of in there and one in self._state.object_store]
            if not left:
                time.sleep(_ANSWER_SECONDS)  # what they fetched is on its way
                return
            time.sleep(_LOOK_SECONDS)

    def _take(self, asked: str, reply: Any) -> None:
        """Hands a reply on as soon as all of its objects are there."""
        hospital = self._asked.get(asked)
        if hospital is None or reply.has_error():
            self._forget(asked)
            return
        tree = self._state.object_store.get_object_tree(reply.metadata.message_id)
        contents = {
            one.object_id: self._state.get_object(self._run, one.object_id) for one in iterate_object_tree(tree)
        }
        if any(content is None for content in contents.values()):
            self._forget(asked)
            return
        if any(content == b"" for content in contents.values()):
            return
        self._forget(asked)
        try:
            _, data = flower_messages.opened(tree.object_id, contents)
            messages = frames.split(data, self._most_bytes)
        except Exception as error:  # bytes of a hospital that are no reply: whatever Flower raises, they are dropped
            print(f"{hospital}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
            messages = [b""]
        self._state.object_store.delete(tree.object_id)
        for one in messages:
            tell(self._pipe, frames.MESSAGE if one else frames.DROPPED, hospital, one)

    def _forget(self, asked: str) -> None:
        self._asked.pop(asked, None)
        self._arriving.pop(asked, None)
        self._state.delete_messages({asked})


_WRITING = threading.Lock()


def tell(pipe: Any, kind: int, name: str = "", content: bytes = b"") -> None:
    """Writes a frame, one at a time; without a reader there is nothing left to do."""
    try:
        with _WRITING:
            frames.write(pipe, kind, name, content)
    except OSError:
        os._exit(0)


def main() -> None:
    """Listens until the pipe is closed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", required=True)
    parser.add_argument("--tls", default="")
    parser.add_argument("--hospitals", required=True)
    parser.add_argument("--most_bytes", type=int, required=True)
    given = parser.parse_args()
    pipe, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing else may write into the pipe
    host, _, port = given.listen.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host.strip("[]"), int(port)))
        listener.listen(64)
    except (OSError, ValueError) as error:
        tell(pipe, frames.GONE, "listen", str(error).encode())
        return
    link = SuperLink(frozenset(json.loads(given.hospitals)), given.most_bytes, pipe)
    tls: dict[str, Any] = {}
    if given.tls:
        tls = {
            "ssl_keyfile": f"{given.tls}/tls.key",
            "ssl_certfile": f"{given.tls}/tls.crt",
            "ssl_ca_certs": f"{given.tls}/ca.crt",
            "ssl_cert_reqs": ssl.CERT_REQUIRED,
        }
    quiet = {"log_level": "warning", "access_log": False, "lifespan": "off", "proxy_headers": False}
    server = uvicorn.Server(
        uvicorn.Config(link.fleet, interface="asgi3", http=Named, timeout_keep_alive=60, **quiet, **tls)
    )
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    serving.start()
    while not server.started and serving.is_alive():
        time.sleep(_LOOK_SECONDS)
    tell(pipe, frames.LISTENING, f"{host}:{listener.getsockname()[1]}")
    threading.Thread(target=link.pump, daemon=True).start()
    while (frame := frames.read(sys.stdin.buffer)) is not None:
        link.push(frame[1], frame[2])
    link.flush(_LAST_SECONDS)
    os._exit(0)


if __name__ == "__main__":
    main()
