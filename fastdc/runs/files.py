"""Files that survive: tensors and plain types, written whole or not at all, and checked when they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import platform
import secrets
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from fastdc.errors import DataError, MissingFileError, RunError
from fastdc.runs.content import in_a_line, plain_types, reading

FORMAT_VERSION = 1
_ENTRY = "fastdc"
_TEMPORARY = ".fastdc.tmp"  # ends the name of a file that is being written
_THIS_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()  # in the name of what this process writes
_AS_IT_IS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # no link, no wait, no other line ends


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it and a rename, so that `path` is always a whole file, old or new.

    The temporary file is this call's own, so several writers of one path do not meet, and no link is followed.

    Raises:
        RunError: the folder cannot be written, the disk is full, or there is something else than a regular file at `path`; what it held
            before is still there.
    """
    try:
        temporary = path.with_name(f".{_THIS_MACHINE}.{os.getpid()}.{secrets.token_hex(4)}{_TEMPORARY}")
        check_regular(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _AS_IT_IS, 0o666)
    except (OSError, ValueError) as error:
        raise write_error(path, error) from None
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def append(path: Path, content: bytes) -> None:
    """Add to the end of a file, which is made where it is missing.

    Raises:
        RunError: as `write_atomically`.
    """
    try:
        check_regular(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _AS_IT_IS, 0o666)
        with open(descriptor, "ab") as file:
            file.write(content)
    except (OSError, ValueError) as error:
        raise write_error(path, error) from None


def cut(path: Path, length: int) -> None:
    """Cut a file that is longer than `length` bytes.

    Raises:
        DataError: it is shorter.
        RunError: as `write_atomically`.
    """
    try:
        check_regular(path)
        size = path.stat().st_size if path.exists() else 0
        if size < length:
            raise DataError(
                f"{path} has {size} bytes; expected at least {length}: it was cut or replaced; restore it, or use another folder."
            )
        if size > length:
            with open(os.open(path, os.O_WRONLY | _AS_IT_IS), "wb") as file:
                file.truncate(length)
    except OSError as error:
        raise write_error(path, error) from None


def read_whole(path: Path) -> bytes:
    """The content of a regular file, or of one that a link leads to.

    Raises:
        FileNotFoundError: no such file.
        OSError: it cannot be read, or is a folder, a device or a pipe, which would never end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))  # a pipe would wait
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError("it is no regular file")
        return file.read()


def remove_left_over(folder: Path, *, below: bool = False) -> None:
    """Remove the temporary files of processes of this machine that were killed while they wrote; in the folders `below`, too."""
    pattern = f".{_THIS_MACHINE}.*{_TEMPORARY}"
    for path in folder.rglob(pattern) if below else folder.glob(pattern):
        process = path.name.removeprefix(f".{_THIS_MACHINE}.").split(".")[0]
        if process.isdecimal() and not _is_alive(int(process)):
            with contextlib.suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    if os.name != "posix":
        return True  # signal 0 asks nothing elsewhere
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's, or a system that does not say
    return True


def check_regular(path: Path) -> None:
    """Raise a RunError where there is something at `path` that a file shall not take the place of: a folder, a link, a device, a pipe.

    Raises:
        OSError: what the path goes through cannot be looked at.
        ValueError: it can be no path.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "a link" if stat.S_ISLNK(mode) else "a device, a pipe or a socket"
            raise RunError(f"{path} is {kind}; expected a regular file, or a name where one can be made.")


def write_error(path: Path, error: OSError | ValueError) -> RunError:
    """The error for a path that cannot be written."""
    full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    advice = "free some space, or name another folder" if full else "name a folder that can be written"
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return RunError(f"{path!s:.300} cannot be written ({reason}); {advice}. What was written before is still there.")


def save_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
    """Write tensors and plain types as a safetensors file with its kind, format version and digest in the header.

    Raises:
        DataError: `content` holds more than plain types.
        RunError: as `write_atomically`.
    """
    arrays = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        text = json.dumps(content, sort_keys=True)
    except TypeError as error:
        raise DataError(f"{path} cannot hold this ({error}); use text, numbers, lists, and dicts with text as keys.") from None
    header = {"kind": kind, "format": FORMAT_VERSION, "content": text, "digest": _digest(kind, arrays, text)}
    # One entry: safetensors puts several in any order, and equal content shall give equal bytes.
    write_atomically(path, save_safetensors(arrays, {_ENTRY: json.dumps(header)}))


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote: the tensors and the plain types.

    Raises:
        MissingFileError: no such file.
        DataError: another kind of file, another format version, or a file that is cut short or altered.
    """
    try:
        raw = read_whole(path)
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing; expected a {kind} file of fastdc.") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}); expected a {kind} file of fastdc.") from None
    with reading(path, f"a whole {kind} file"):
        header = _read_header(raw)
        tensors = load_safetensors(raw)
        version, text = header["format"], header["content"]
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path} has format version {in_a_line(version, 40)}; this version of fastdc reads {FORMAT_VERSION}: use the one that "
                "wrote it."
            )
        if header["kind"] != kind or header["digest"] != _digest(kind, tensors, text):
            raise ValueError(f"a {in_a_line(header['kind'], 40)} file" if header["kind"] != kind else "its digest is another")
        content = plain_types(text)
        if not isinstance(content, dict):
            raise TypeError("its content has no names")
    return tensors, content


def _read_header(raw: bytes) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", raw[:8])
    return dict(json.loads(json.loads(raw[8 : 8 + length])["__metadata__"][_ENTRY]))


def _digest(kind: str, tensors: Mapping[str, Tensor], content: str) -> str:
    digest = hashlib.sha256(f"{kind}\n{content}\n".encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
