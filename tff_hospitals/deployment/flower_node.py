"""A hospital's end in Flower's own environment: a node without apps, told what to reply over a pipe.

Runs with the one version of `flwr` only: it uses modules that Flower calls private. It opens no port, starts no
process, and never asks for an app: what a message holds goes to the hospital's worker as bytes, and to nobody else.
Each connection is a node of its own, whose key is forgotten with it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_objects, push_object_contents_from_iterable
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from tff_hospitals.deployment import flower_frames as frames
from tff_hospitals.deployment import flower_messages

_HEARTBEAT_SECONDS = 10.0
_POLL_SECONDS, _IDLE_POLL_SECONDS, _IDLE_AFTER_SECONDS = 0.05, 0.5, 60.0
_LEAVE_SECONDS = 2.0
_LOST_SECONDS = 20.0  # without an answer of the server, after which the line counts as gone
_PULLED_FIRST_SECONDS, _PULLED_LATEST_SECONDS = 0.01, 0.2


class FleetNode:
    """One node of one hospital, from its activation to its end.

    Args:
      address: `host:port` of the SuperLink.
      folder: with key, certificate and authority; "": no TLS.
      hospital: its id, which is only said where no certificate says it.
      most_bytes: of a message.
    """

    def __init__(self, address: str, folder: str, hospital: str, most_bytes: int):
        key = ec.generate_private_key(ec.SECP384R1())
        self._public, self._most_bytes = public_key_to_bytes(key.public_key()), most_bytes
        verify: Any = False
        if folder:
            verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            verify.load_verify_locations(cafile=f"{folder}/ca.crt")
            verify.load_cert_chain(f"{folder}/tls.crt", f"{folder}/tls.key")
        self._client = FleetHttpClient(
            f"{'https' if folder else 'http'}://{address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
            verify=verify,
        )
        inside = self._client._client
        inside.event_hooks = {"response": [_bound]}
        if not folder:
            inside.headers["hospital"] = hospital
        self._node: Any = None

    def activate(self, seconds: float) -> None:
        """Becomes present at the server.

        Raises:
          httpx.HTTPError: it cannot, after so many seconds.
        """
        end = time.monotonic() + seconds
        asked = ActivateNodeRequest(public_key=self._public, heartbeat_interval=_HEARTBEAT_SECONDS)
        while True:
            try:
                self._node = Node(node_id=self._client.ActivateNode(asked).node_id)
                return
            except httpx.TransportError:
                if time.monotonic() > end:
                    raise
                time.sleep(_POLL_SECONDS)

    def leave(self) -> None:
        """Tells the server that the line ends here."""
        self._client._client.timeout = httpx.Timeout(_LEAVE_SECONDS)
        try:
            self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id))
        except Exception as error:  # the server may be gone already: its heartbeats tell it then
            print(f"not deactivated: {type(error).__name__}", file=sys.stderr)

    def beat(self) -> None:
        """Heartbeats; does not return."""
        while True:
            time.sleep(0.6 * _HEARTBEAT_SECONDS)
            try:
                asked = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=_HEARTBEAT_SECONDS)
                self._client.SendNodeHeartbeat(asked)
            except httpx.HTTPError as error:
                print(f"no heartbeat: {type(error).__name__}", file=sys.stderr)

    def waiting(self) -> Any:
        """What the server has for this node; None: nothing. It tells each message once."""
        found = self._client.PullMessages(PullMessagesRequest(node=self._node))
        return found if found.messages_list else None

    def fetch(self, found: Any) -> tuple[Any, bytes]:
        """A message that is waiting, and what it holds."""
        head, tree = message_from_proto(found.messages_list[0]), found.message_object_trees[0]
        names = [one.object_id for one in iterate_object_tree(tree)]
        if len(names) > flower_messages.most_objects(self._most_bytes):
            raise ValueError(f"a message of {len(names)} parts is larger than any of this plan")
        fetch = make_pull_object_fn_protobuf(self._client.PullObject, self._node, head.metadata.run_id)
        pauses = {"initial_backoff": _PULLED_FIRST_SECONDS, "backoff_cap": _PULLED_LATEST_SECONDS}
        contents = pull_objects(names, fetch, **pauses)
        confirmed = ConfirmMessageReceivedRequest(
            node=self._node, run_id=head.metadata.run_id, message_object_id=head.metadata.message_id
        )
        with contextlib.suppress(httpx.TransportError):  # it is all here; a server that ends may not hear that any more
            self._client.ConfirmMessageReceived(confirmed)
        return flower_messages.opened(tree.object_id, contents)

    def reply(self, message: Any, data: bytes) -> None:
        """Answers a message, once."""
        answer = Message(flower_messages.content(data), reply_to=message)
        tree, objects = flower_messages.finished(answer)
        asked = PushMessagesRequest(
            node=self._node,
            messages_list=[message_to_proto(remove_content_from_message(answer))],
            message_object_trees=[tree],
        )
        told = self._client.PushMessages(asked)
        push = make_push_object_fn_protobuf(
            self._client.PushObject, self._node, answer.metadata.run_id, told.session_id
        )
        push_object_contents_from_iterable(((name, objects[name]) for name in told.objects_to_push), push)


class Bounded(httpx.SyncByteStream):
    """The body of an answer, which ends with an error where it is larger than any that is due.

    Args:
      stream: the body.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        left = flower_messages.BODY_BYTES
        for part in self._stream:
            left -= len(part)
            if left < 0:
                raise httpx.RemoteProtocolError(f"an answer of more than {flower_messages.BODY_BYTES} bytes")
            yield part

    def close(self) -> None:
        """Ends it."""
        self._stream.close()


def _bound(response: Any) -> None:
    response.stream = Bounded(response.stream)


def work(node: FleetNode, pipe: Any, replies: queue.Queue) -> str:
    """Carries messages to the worker and its replies back; gives the reason for which the line ended.

    Where a call may have reached the server and its answer did not come back, nobody knows which message was lost. Then
    the line ends: the worker dials again, and is asked again.
    """
    last = heard = time.monotonic()
    while True:
        found = None
        try:
            found = node.waiting()
            heard = time.monotonic()
            if found is None:
                time.sleep(_POLL_SECONDS if heard - last < _IDLE_AFTER_SECONDS else _IDLE_POLL_SECONDS)
                continue
            message, data = node.fetch(found)
            frames.write(pipe, frames.MESSAGE, "", data)
            node.reply(message, replies.get())
            last = heard = time.monotonic()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            if found is not None or time.monotonic() - heard > _LOST_SECONDS:
                return f"the server does not answer: {error}"
            time.sleep(_POLL_SECONDS)
        except httpx.TransportError as error:
            return f"the network was cut: {type(error).__name__}: {error}"
        except httpx.HTTPStatusError as error:
            return f"the server refused a call with {error.response.status_code}: it was started again, or another line"
        except BrokenPipeError:
            return "the worker ended"
        except Exception as error:  # whatever Flower makes of bytes from outside: the line ends, the worker dials again
            return f"{type(error).__name__}: {error}"[:300]


def main() -> None:
    """One line, until the worker closes the pipe or the server is gone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--tls", default="")
    parser.add_argument("--hospital", required=True)
    parser.add_argument("--most_bytes", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args()
    pipe, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing else may write into the pipe
    try:
        node = FleetNode(given.server, given.tls, given.hospital, given.most_bytes)
        node.activate(given.seconds)
    except (OSError, httpx.HTTPError) as error:
        frames.write(pipe, frames.GONE, "", str(error).encode())
        return
    frames.write(pipe, frames.LISTENING, given.hospital)
    replies: queue.Queue = queue.Queue()

    def read() -> None:
        while (frame := frames.read(sys.stdin.buffer)) is not None:
            replies.put(frame[2])
        node.leave()
        os._exit(0)

    threading.Thread(target=node.beat, daemon=True).start()
    threading.Thread(target=read, daemon=True).start()
    why = work(node, pipe, replies)
    try:
        frames.write(pipe, frames.GONE, "", why.encode())
    except OSError:
        print(why, file=sys.stderr)
    os._exit(0)


if __name__ == "__main__":
    main()
