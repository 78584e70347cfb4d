"""Files altered at random: a few of their bytes; or, where checksums would tell, what they hold, with checksums that are right.

Each function takes a random generator, the content of a file and its name, and gives another content.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gzip
import io
import json
import os
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from fastdc.runs.files import _digest

MEGABYTES = 1 << 20
EXTREMES = (
    *(b"\xff\xff\xff\xff", b"\x80\0\0\0", b"\0\0\0\x80", b"\x7f\xff\xff\xff", b"\0\0\0\0"),
    *(b"\xff\xff", b"\xff" * 8, b"\0\0\0\x01", b"\x7f"),
)

# Bytes


def altered(rng: Random, content: bytes, other: bytes) -> bytes:
    """A file with a few of its bytes altered, or joined with another."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        size = len(result)
        at = rng.randrange(min(size, rng.choice((16, 64, 512, size))) or 1) if size else 0
        end = min(size, at + rng.choice((1, 2, 4, 8, 64, 1000)))
        match rng.randrange(8):
            case 0 if size:
                result[at] ^= 1 << rng.randrange(8)
            case 1:
                result[at:end] = rng.randbytes(end - at)
            case 2:
                result[at:at] = rng.randbytes(rng.choice((1, 2, 4, 100)))
            case 3:
                del result[at:end]
            case 4:
                result[at:at] = result[at:end] * rng.choice((1, 3, 50))
            case 5:
                del result[at:]
            case 6:
                result[at:] = other[rng.randrange(len(other) or 1) :]
            case 7:
                extreme = rng.choice(EXTREMES)
                result[at : at + len(extreme)] = extreme
    return bytes(result)


# JSON

_DEEP, _LONG = "@deep@", "@long@"
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, 1e308, -1e308, 1e-320, float("nan"), float("inf"), 10**30, -(10**30), 2**31, 2**63, 2**64),
    *("", "a", "\ud800", "\0", "NaN", "../x", "--help", "x" * 100_000, "dc:a=b", _DEEP, _LONG),
    *([], [[]], {}, {"": None}, [0] * 10_000, [None], ["a", 1], [1e308] * 3),
)


def altered_value(rng: Random, value: Any) -> Any:
    """Plain types with some of them exchanged, renamed, dropped or repeated."""
    whole = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 2, 5))):
        holder, key = rng.choice(list(_places(whole)))
        match rng.randrange(8):
            case 0 if holder is not whole:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(("", "x", "\ud800", key.upper(), *map(str, _ODD[:3])))] = holder.pop(key)
            case 2:
                holder[key] = [holder[key]] * rng.choice((1, 2, 100))
            case 3:
                holder[key] = rng.choice(list(_places(whole)))[0][0:0] if isinstance(holder, list) else str(holder[key])
            case 4 if isinstance(holder[key], int | float):
                holder[key] = rng.choice((-holder[key], holder[key] + 1, holder[key] * 1e30, holder[key] * 2**40, float(holder[key])))
            case _:
                holder[key] = copy.deepcopy(rng.choice(_ODD))
    return whole[0]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(value) if isinstance(value, dict) else range(min(len(value), 50)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def json_text(value: Any, **options: Any) -> str:
    text = json.dumps(value, **options)
    return text.replace(f'"{_DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{_LONG}"', "9" * 5000)


def altered_json(rng: Random, content: bytes, name: str) -> bytes:
    return json_text(altered_value(rng, json.loads(content))).encode()


def altered_lines(rng: Random, content: bytes, name: str) -> bytes:
    return b"".join(json_text(altered_value(rng, json.loads(line))).encode() + b"\n" for line in content.splitlines())


def altered_options(rng: Random, content: bytes, name: str) -> bytes:
    value = altered_value(rng, OPTIONS)
    if name.endswith(".json") or not isinstance(value, dict):
        return json_text(value).encode()
    return "".join(f"{json.dumps(key)} = {json_text(one)}\n" for key, one in value.items()).encode()


OPTIONS = {"dataset": "digits", "ipc": [1, 2], "model": "mlp", "lr_images": 0.1, "quiet": True, "image-size": [8, 8], "seed": 1}

# Tensors

_GENERATOR = np.random.default_rng(0)
IMAGES, LABELS = torch.from_numpy(_GENERATOR.random((4, 3, 4, 4), dtype=np.float32)), torch.arange(4) % 2
SHARES = torch.tensor([[0.25, 0.75], [1.0, 0.0]] * 2)

_DTYPES = [torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.uint8, torch.int8, torch.int16, torch.int64, torch.bool]
_VALUES = (float("nan"), float("inf"), -1.0, 0.0, 1.0, 3e38, 255.0, 1e6)


def altered_tensor(rng: Random, tensor: Tensor) -> Tensor:
    """A dense tensor of another dtype, shape or content."""
    match rng.randrange(5):
        case 0:
            return tensor.to(rng.choice(_DTYPES))
        case 1:
            empty = tensor.new_zeros(rng.choice(((), (0,), (1,), (3, 0, 4), (2, 1, 4, 4), (70000,), (1,) * 30)))
            return rng.choice(
                (tensor.flatten(), tensor[None], tensor[..., None], tensor.squeeze(), tensor.mT if tensor.dim() > 1 else tensor, empty)
            )
        case 2:
            return tensor.double().fill_(rng.choice(_VALUES)).to(tensor.dtype)
        case 3 if tensor.dim():
            return rng.choice((tensor[:0], tensor[:1], tensor.repeat(3, *[1] * (tensor.dim() - 1)), tensor[..., :1], tensor.flip(0)))
        case _:
            result = tensor.double().flatten()
            result[: rng.randrange(3)] = rng.choice(_VALUES)
            return result.view(tensor.shape).to(tensor.dtype)


def altered_safetensors(rng: Random, content: bytes, name: str) -> bytes:
    """Another content of a file of fastdc, with the digest that belongs to it; or another header, which declares what is not there."""
    (length,) = struct.unpack("<Q", content[:8])
    outer = json.loads(content[8 : 8 + length])
    if rng.random() < 0.1:
        text = json_text(altered_value(rng, outer)).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]
    tensors, header = load_safetensors(content), json.loads(outer["__metadata__"]["fastdc"])
    if rng.random() < 0.5:
        for chosen in rng.choices(sorted(tensors), k=rng.choice((1, 1, 2))):
            other = rng.choice((chosen, chosen, chosen, "x", "network.x", "path.x", "learned.x", rng.choice(sorted(tensors))))
            tensors[other] = altered_tensor(rng, tensors[chosen]).contiguous().clone()
            if rng.random() < 0.1:
                del tensors[chosen]
    else:
        header["content"] = json_text(altered_value(rng, json.loads(header["content"])))
    header["digest"] = _digest(header["kind"], tensors, header["content"])
    if rng.random() < 0.05:
        header = altered_value(rng, header)
    return save_safetensors(tensors, {"fastdc": json_text(header)})


class Reduced:
    """What would run code where a pickle is trusted."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ../ran",)


def odd_tensor(rng: Random, tensor: Tensor) -> Any:
    """What a file of torch may hold in the place of a tensor."""
    kinds: list[Callable[[], Any]] = [
        lambda: tensor.to_sparse(),
        lambda: tensor.flatten(1).to_sparse_csr() if tensor.dim() > 1 else tensor,
        lambda: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.quint8),
        lambda: tensor.to(torch.complex64),
        lambda: tensor.to(torch.complex64).conj(),
        lambda: torch.nested.nested_tensor([tensor.float().flatten(), tensor.float().flatten()[:2]]),
        lambda: torch.nested.nested_tensor([tensor.float(), tensor.float()], layout=torch.jagged),
        lambda: tensor.to("meta"),
        lambda: torch.empty(1 << 40, 3, 4, 4, device="meta"),
        lambda: tensor.flatten()[:1].expand(rng.choice((1 << 50, 1 << 31, 1000))),
        lambda: tensor.flatten()[:1].expand(1 << rng.choice((8, 30, 40)), *rng.choice(((3, 4, 4), (1, 4, 4), (2,)))),
        lambda: torch.as_strided(tensor.flatten(), (4, 1, 2, 2), (1, 1, 1, 1)),
        lambda: torch.nn.Parameter(tensor.float()),
        lambda: tensor.numpy(),
        lambda: tensor.tolist(),
        lambda: np.float64(rng.choice(_VALUES)),
        lambda: tensor.untyped_storage(),
        Reduced,
        *(lambda odd=odd: copy.deepcopy(odd) for odd in (*_ODD, object, torch.float32, torch.Size([2]), 1j, b"x", {1, 2})),
    ]
    return altered_tensor(rng, tensor) if rng.random() < 0.5 else rng.choice(kinds)()


def altered_pt(rng: Random, content: bytes, name: str) -> bytes:
    """Another object in the place of condensed images; or the same with one member of the archive altered, its checksum made anew."""
    if name.startswith("zip") and rng.random() < 0.4:
        return altered_zip(rng, content, name)
    images, labels = (odd_tensor(rng, part) if rng.random() < 0.6 else part for part in (IMAGES, rng.choice((LABELS, SHARES))))
    pairs: Any = [[images, labels]] * rng.choice((1, 1, 1, 0, 3))
    deep: Any = []
    for _ in range(3000):
        deep = [deep]
    cycle: Any = {}
    cycle["a"] = [cycle]
    accuracies = rng.choice((None, {}, deep, cycle, altered_value(rng, {"a": [0.5, 1], "b": {"c": 0.1}}), {"a": odd_tensor(rng, IMAGES)}))
    whole: list[Any] = [
        [images, labels],
        (images, labels),
        {"images": images, "labels": labels},
        {"data": pairs, "accs_all_exps": accuracies},
        {"data": rng.choice((pairs, deep, cycle, [*pairs[:1], rng.choice(_ODD)], "ab", images)), "accs_all_exps": {}},
        {rng.choice(("x", 1, None, "data", (1, 2))): images, rng.choice(("y", "labels")): labels},
        images,
        deep,
        cycle,
    ]
    buffer = io.BytesIO()
    torch.save(rng.choice(whole), buffer, _use_new_zipfile_serialization=name.startswith("zip"))
    return buffer.getvalue()


# Archives


def altered_zip(rng: Random, content: bytes, name: str) -> bytes:
    """One member altered, dropped, renamed or blown up, with checksums that are right."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    chosen = rng.choice(sorted(members))
    match rng.randrange(8):
        case 0:
            members[rng.choice((f"{chosen}x", "../ran", "/ran.npy", "x.npy"))] = members.pop(chosen)
        case 1:
            del members[chosen]
        case 2 if rng.random() < 0.1:
            members[chosen] += bytes(64 * MEGABYTES)
        case _:
            members[chosen] = altered(rng, members[chosen], content)
    return _zipped(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression, compresslevel=1) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for member, data in members.items():
            archive.writestr(member, data)
    return buffer.getvalue()


_NUMPY = ("f2", "f8", ">f4", "<c8", "i1", ">i8", "u8", "?", "S3", "U2", "M8[s]", "m8[s]", "V4", "i4,f4", "(2,)f4", "f16", "O")


def altered_npz(rng: Random, content: bytes, name: str) -> bytes:
    """Arrays of another dtype, shape or content; headers that declare something else; or another archive."""
    if rng.random() < 0.3:
        return altered_zip(rng, content, name)
    with np.load(io.BytesIO(content)) as archive:
        arrays = {key: archive[key] for key in archive.files}
    members = {}
    for key in rng.sample(list(arrays), len(arrays)):
        array = arrays[key]
        if rng.random() < 0.6:
            with contextlib.suppress(TypeError, ValueError), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tensor = altered_tensor(rng, torch.from_numpy(array))
                array = tensor.numpy() if tensor.dtype not in (torch.bfloat16, torch.float8_e4m3fn) else array[::-1]
                array = array.astype(rng.choice(_NUMPY)) if rng.random() < 0.3 else array
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=True)
        data = buffer.getvalue()
        if rng.random() < 0.2:
            header = data[10 : data.index(b"\n")].decode("latin1")
            old = rng.choice(("(", ")", "'", "True", "False", "4", "8", "shape", "descr", "<", "|", "}", ","))
            new = rng.choice(("", "-1", "1e9", "9" * 30, "9" * 5000, "4" * 9, "None", "((", "True", "O", "'" * 3, "[" * 5000, "\0"))
            text = header.replace(old, new, rng.choice((1, -1))).encode("latin1") + b"\n"
            data = b"\x93NUMPY\x02\0" + struct.pack("<I", len(text)) + text + data[data.index(b"\n") + 1 :]
        members[f"{key}.npy"] = data
    return _zipped(members)


def altered_idx(rng: Random, content: bytes, name: str) -> bytes:
    """Other sizes in the header; gzipped, with the checksum that belongs to it."""
    gzipped = name.endswith(".gz")
    plain = gzip.decompress(content) if gzipped else content
    if rng.random() < 0.6:
        at = 4 * rng.randrange(1 + plain[3]) if plain[:2] == b"\0\0" else 0
        plain = plain[:at] + rng.choice((*EXTREMES, rng.randbytes(4), b"\0\0\0\x04", b"\0\0\x0d\x03")) + plain[at + 4 :]
    else:
        plain = altered(rng, plain, content)
    if rng.random() < 0.005:
        plain += bytes(64 * MEGABYTES)
    return gzip.compress(plain, 1) if gzipped else plain


# Pictures


@functools.cache
def _packed(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


def altered_png(rng: Random, content: bytes, name: str) -> bytes:
    """Chunks altered, added or dropped, with checksums that are right."""
    chunks, at = [], 8
    while at < len(content):
        (length,) = struct.unpack(">I", content[at : at + 4])
        chunks.append([content[at + 4 : at + 8], content[at + 8 : at + 8 + length]])
        at += 12 + length
    for _ in range(rng.choice((1, 1, 2, 4))):
        chosen = rng.choice(chunks)
        packed = _packed(rng.choice((0, 100, 2 * MEGABYTES, 128 * MEGABYTES)))
        match rng.randrange(5):
            case 0:
                chosen[1] = altered(rng, chosen[1], content)
            case 1:
                size = rng.choice((0, 1, 4, 1000, 20_000, 1 << 16, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFF))
                other = rng.choice((4, 1, 20_000, size))
                rest = rng.choice((b"\x08\0\0\0\0", b"\x10\0\0\0\0", b"\x08\2\0\0\0", b"\x01\3\0\0\1", rng.randbytes(5)))
                chunks[0] = [b"IHDR", struct.pack(">II", size, other) + rest]
            case 2:
                kind = rng.choice(
                    (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"tRNS", b"PLTE", b"acTL", b"fcTL", b"fdAT", b"cHRM", b"pHYs", b"gAMA")
                )
                data = rng.choice(
                    (b"", b"k\0", b"k\0\0" + packed, b"k\0\1\0\0\0" + packed, b"k\0" + b"x" * MEGABYTES, rng.randbytes(26), b"\xff" * 8)
                )
                chunks.insert(rng.randrange(1, len(chunks)), [kind, data])
            case 3 if len(chunks) > 1:
                chunks.remove(chosen)
            case _:
                chunks.insert(rng.randrange(len(chunks)), list(chosen))
    return content[:8] + b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
