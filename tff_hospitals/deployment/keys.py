"""Signing keys (Ed25519, RFC 8032): each party signs every message with its own; the agreement says whose is whose.

>>> key = SigningKey.generate()
>>> signature = key.sign(b"text")
>>> verifies(key.public, signature, b"text"), verifies(key.public, signature, b"other text")
(True, False)
"""

from __future__ import annotations

import os
import pathlib
import stat
import string
import tempfile

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tff_hospitals.communication.container import Buffer
from tff_hospitals.foundations.files import RecordError, flush_folder

SIGNATURE_BYTES = 64
PUBLIC_KEY_BYTES = 32
_DOMAIN = b"tff_hospitals/deployment/2\0"
_FIELD = 2**255 - 19
_OF_EIGHT = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_OF_SMALL_ORDER = (0, 1, _OF_EIGHT, _FIELD - _OF_EIGHT, _FIELD - 1, _FIELD, _FIELD + 1)
"""Heights of the points of Ed25519 whose eightfold is nothing: the same few signatures are valid for many texts."""


class SigningKey:
    """A private key; it is never printed.

    Args:
      private: of the package `cryptography`.
    """

    def __init__(self, private: Ed25519PrivateKey):
        self._private = private

    @classmethod
    def generate(cls) -> SigningKey:
        """A new key from the operating system's source."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, path: os.PathLike[str] | str) -> SigningKey:
        """The key in a file that `write` made.

        Raises:
          RecordError: no such key, or others may read it.
        """
        content = read_private(path)
        try:
            private = serialization.load_pem_private_key(content, None)
        except (ValueError, TypeError) as error:
            raise RecordError(f"{path} holds no private key: {error}. Remedy: restore it from a backup.") from error
        if not isinstance(private, Ed25519PrivateKey):
            raise RecordError(f"{path} holds a key of another kind. Remedy: name the signing key (Ed25519).")
        return cls(private)

    @property
    def public(self) -> str:
        """The public half, 64 hexadecimal digits."""
        return self._private.public_key().public_bytes_raw().hex()

    def sign(self, text: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(_hashed(text))

    def write(self, path: os.PathLike[str] | str) -> None:
        """Writes the private key, readable for its owner alone; a key that is there is never overwritten."""
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        write_private(path, self._private.private_bytes(encoding, form, serialization.NoEncryption()))


def verifies(public: str, signature: bytes, text: bytes) -> bool:
    """Whether the holder of the public key's other half signed the text."""
    try:
        Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)).verify(signature, _hashed(text))
    except (InvalidSignature, ValueError):
        return False
    return True


def sha512(*parts: Buffer) -> bytes:
    """The hash of parts one behind the other: by OpenSSL's code for this machine, which `hashlib` may lack.

    >>> import hashlib
    >>> sha512(b"a model, ", b"long").hex() == hashlib.sha512(b"a model, long").hexdigest()
    True
    """
    found = hashes.Hash(hashes.SHA512())
    for part in parts:
        found.update(part)
    return found.finalize()


def _hashed(text: bytes) -> bytes:
    """What is signed: Ed25519 reads its text twice, which an agreement may be too long for."""
    return _DOMAIN + sha512(text)


def is_public_key(text: object) -> bool:
    """Whether a text is a public key: 64 hexadecimal digits, small letters, and no point that anybody can sign for."""
    if not isinstance(text, str) or len(text) != 2 * PUBLIC_KEY_BYTES or set(text) - set(string.hexdigits.lower()):
        return False
    point = int.from_bytes(bytes.fromhex(text), "little") % 2**255
    return point not in _OF_SMALL_ORDER


def write_private(path: os.PathLike[str] | str, content: bytes) -> None:
    """A new file that its owner alone may read: whole, or not at all.

    Raises:
      RecordError: there is one already, or the disk refuses.
    """
    target = pathlib.Path(path)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, target)  # which replaces nothing
        finally:
            os.unlink(temporary)
        flush_folder(target.parent)
    except OSError as error:
        raise RecordError(
            f"could not write {target}: {error.strerror or error}. Remedy: name a folder that is new and yours."
        ) from error


def read_private(path: os.PathLike[str] | str) -> bytes:
    """What a private file holds.

    Raises:
      RecordError: it is missing, or others may read it.
    """
    target = pathlib.Path(path)
    try:
        with target.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read()
    except OSError as error:
        raise RecordError(
            f"{target} cannot be read: {error.strerror or error}. Remedy: run as the user who owns it."
        ) from error
    if mode & 0o077:
        raise RecordError(
            f"{target} has mode {mode:04o}: others may read it, must be 0600. Remedy: chmod 600 {target}; if somebody "
            "may have read it, make a new one."
        )
    return content
