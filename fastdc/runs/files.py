"""Files that survive: tensors and plain types, written whole or not at all, and checked when they are read."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from fastdc.errors import DataError, MissingFileError, RunError

FORMAT_VERSION = 1
_ENTRY = "fastdc"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file through a temporary one beside it and a rename, so that `path` is always a whole file, old or new.

    Raises:
        RunError: the folder cannot be written or the disk is full; what `path` held before is still there.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise write_error(path, error) from None


def write_error(path: Path, error: OSError) -> RunError:
    """The error for a path that cannot be written."""
    advice = "free some space, or name another folder" if error.errno == errno.ENOSPC else "name a folder that can be written"
    return RunError(f"{path} cannot be written ({error.strerror or error}); {advice}. What was written before is still there.")


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
        raw = path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(f"{path} is missing; expected a {kind} file of fastdc.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); expected a {kind} file of fastdc.") from None
    damaged = DataError(f"{path} is not a whole {kind} file: it is cut short, altered or of another kind; restore it or make it anew.")
    try:
        header = _read_header(raw)
        version = header["format"]
        tensors = load_safetensors(raw)
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError, struct.error):
        raise damaged from None
    if version != FORMAT_VERSION:
        raise DataError(f"{path} has format version {version}; this version of fastdc reads {FORMAT_VERSION}: use the one that wrote it.")
    if header.get("kind") != kind or header.get("digest") != _digest(kind, tensors, header.get("content", "")):
        raise damaged
    return tensors, json.loads(header["content"])


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
