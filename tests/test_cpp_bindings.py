"""The edge of fastdc._C: what does not fit is refused by name, what fits is read and written where it lies and nowhere else."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import INSTRUCTION_SETS, needs_extension, run_apart
from tolerances import EQUAL_GRADIENTS, ONE_UNIT_FLOAT32

from fastdc.runtime import compiled

pytestmark = needs_extension

CLASSES, SIZE = 2, 12
METRICS: tuple[str, ...] = () if compiled.extension is None else compiled.extension.METRICS
BIG = 2**62


def arguments(dtype: Any = np.float32) -> dict[str, Any]:
    """A call that works: a matrix of 2 x 5 between vectors of one element."""
    generator = np.random.default_rng(0)
    synthetic, real = generator.standard_normal((2, CLASSES, SIZE)).astype(dtype)
    return {
        "synthetic": synthetic,
        "real": real,
        "tiles": np.array([[0, 0, 1], [1, 2, 5], [11, 0, 1]], np.int64),
        "metric": "layerwise_cosine",
        "distance": np.full(CLASSES, np.nan, np.float64 if dtype == np.float64 else np.float32),
        "cotangent": np.full((CLASSES, SIZE), np.nan).astype(dtype),
        "threads": 1,
    }


def call(**changes: Any) -> dict[str, Any]:
    """A gradient that lies in one part, or in those of a list."""
    given = {**arguments(), **changes}
    parts = {name: given[name] if isinstance(given[name], list) else [given[name]] for name in ("synthetic", "real", "cotangent")}
    compiled.extension.layerwise_distance(**{**given, **parts})
    return given


def read_only(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def tiles(*rows: tuple[int, int, int]) -> np.ndarray:
    return np.array(rows, np.int64).reshape(-1, 3)


@pytest.fixture(params=INSTRUCTION_SETS)
def _instruction_set(request: pytest.FixtureRequest) -> Iterator[None]:
    compiled.extension.select_instruction_set(request.param)
    yield
    compiled.extension.select_instruction_set(INSTRUCTION_SETS[0])


def f(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.zeros(shape, dtype)


REFUSED: dict[str, tuple[str, Any]] = {
    "synthetic of one dimension": ("synthetic", f(SIZE)),
    "synthetic of three": ("synthetic", f(1, CLASSES, SIZE)),
    "synthetic of integers": ("synthetic", f(CLASSES, SIZE, dtype=np.int32)),
    "synthetic of booleans": ("synthetic", f(CLASSES, SIZE, dtype=bool)),
    "synthetic of int16": ("synthetic", f(CLASSES, SIZE, dtype=np.int16)),
    "synthetic of complex numbers": ("synthetic", f(CLASSES, SIZE, dtype=np.complex64)),
    "synthetic of the other byte order": ("synthetic", f(CLASSES, SIZE, dtype=">f4")),
    "synthetic of objects": ("synthetic", f(CLASSES, SIZE, dtype=object)),
    "synthetic by columns": ("synthetic", f(SIZE, CLASSES).T),
    "synthetic with every second element": ("synthetic", f(CLASSES, 2 * SIZE)[:, ::2]),
    "synthetic backwards": ("synthetic", f(CLASSES, SIZE)[:, ::-1]),
    "synthetic with one element repeated": ("synthetic", np.broadcast_to(f(CLASSES, 1), (CLASSES, SIZE))),
    "synthetic at half an element": ("synthetic", np.ndarray((CLASSES, SIZE), np.float32, bytearray(200), 0, (50, 4))),
    "synthetic of no part": ("synthetic", []),
    "real of more parts": ("real", [f(CLASSES, SIZE)] * 2),
    "real of no part": ("real", []),
    "cotangent of more parts": ("cotangent", [f(CLASSES, SIZE)] * 2),
    "real of other shape": ("real", f(CLASSES, SIZE + 1)),
    "real of fewer classes": ("real", f(CLASSES - 1, SIZE)),
    "real of one dimension": ("real", f(CLASSES * SIZE)),
    "real of other dtype": ("real", f(CLASSES, SIZE, dtype=np.float64)),
    "real by columns": ("real", f(SIZE, CLASSES).T),
    "real at half an element": ("real", np.ndarray((CLASSES, SIZE), np.float32, bytearray(200), 0, (50, 4))),
    "cotangent of other shape": ("cotangent", f(CLASSES, SIZE - 1)),
    "cotangent of fewer classes": ("cotangent", f(CLASSES - 1, SIZE)),
    "cotangent of one dimension": ("cotangent", f(CLASSES * SIZE)),
    "cotangent of other dtype": ("cotangent", f(CLASSES, SIZE, dtype=np.float16)),
    "cotangent by columns": ("cotangent", f(SIZE, CLASSES).T),
    "cotangent with gaps between classes": ("cotangent", f(CLASSES, 2 * SIZE)[:, :SIZE]),
    "cotangent backwards": ("cotangent", f(CLASSES, SIZE)[::-1]),
    "cotangent with one class repeated": ("cotangent", np.lib.stride_tricks.as_strided(f(1, SIZE), (CLASSES, SIZE), (0, 4))),
    "cotangent that cannot be written": ("cotangent", read_only(f(CLASSES, SIZE))),
    "distance of other length": ("distance", f(CLASSES - 1)),
    "distance of two dimensions": ("distance", f(CLASSES, 1)),
    "distance of no dimension": ("distance", f()),
    "distance of other dtype": ("distance", f(CLASSES, dtype=np.float64)),
    "distance with gaps": ("distance", f(2 * CLASSES)[::2]),
    "distance that cannot be written": ("distance", read_only(f(CLASSES))),
    "tiles of one dimension": ("tiles", np.array([0, 1, 12], np.int64)),
    "tiles of two columns": ("tiles", f(1, 2, dtype=np.int64)),
    "tiles of int32": ("tiles", np.array([[0, 1, 12]], np.int32)),
    "tiles of uint64": ("tiles", np.array([[0, 1, 12]], np.uint64)),
    "tiles of floats": ("tiles", np.array([[0.0, 1, 12]])),
    "tiles of the other byte order": ("tiles", np.array([[0, 1, 12]], ">i8")),
    "tiles by columns": ("tiles", np.asfortranarray(tiles((0, 1, 6), (6, 1, 6)))),
    "tiles of every second row": ("tiles", np.repeat(tiles((0, 1, 6), (6, 1, 6)), 2, 0)[::2]),
    "no tiles": ("tiles", tiles()),
    "tiles with a gap": ("tiles", tiles((0, 1, 5), (6, 1, 6))),
    "tiles that overlap": ("tiles", tiles((0, 1, 6), (5, 1, 7))),
    "tiles that overlap and add up": ("tiles", tiles((0, 1, 6), (5, 1, 6))),
    "tiles with a gap that add up": ("tiles", tiles((0, 1, 5), (6, 1, 7))),
    "tiles out of order": ("tiles", tiles((6, 1, 6), (0, 1, 6))),
    "tiles twice": ("tiles", tiles((0, 1, 12), (0, 1, 12))),
    "tiles that end early": ("tiles", tiles((0, 1, 11))),
    "tiles that start late": ("tiles", tiles((1, 1, 11))),
    "tiles beyond the end": ("tiles", tiles((0, 1, 13))),
    "tiles of rows beyond the end": ("tiles", tiles((0, 3, 5))),
    "tiles beyond the end in no row": ("tiles", tiles((0, 0, 13))),
    "negative offset": ("tiles", tiles((-1, 1, 13))),
    "negative rows": ("tiles", tiles((0, -1, 12))),
    "negative rows and length": ("tiles", tiles((0, -1, -12))),
    "negative length": ("tiles", tiles((0, 2, 12), (24, 1, -12))),
    "rows that overflow": ("tiles", tiles((0, BIG, 4))),
    "rows that overflow to the right size": ("tiles", tiles((0, BIG + 3, 4))),
    "length that overflows": ("tiles", tiles((0, 4, BIG))),
    "length that overflows to the right size": ("tiles", tiles((0, 4, BIG + 3))),
    "all at their largest": ("tiles", tiles((0, 2**63 - 1, 2**63 - 1))),
    "all at their smallest": ("tiles", tiles((-(2**63), -(2**63), -(2**63)))),
    "metric": ("metric", "euclid"),
    "metric of no letters": ("metric", ""),
    "no threads": ("threads", 0),
    "negative threads": ("threads", -(2**31)),
}


@pytest.mark.parametrize(("name", "value"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused_by_name_and_nothing_is_written(name: str, value: Any) -> None:
    given = {**arguments(), name: value}
    with pytest.raises(ValueError, match=rf"^{name} is .*; expected .*"):
        call(**given)
    for output in ("distance", "cotangent"):
        assert name == output or np.isnan(given[output]).all()


def in_parts(array: np.ndarray, *sizes: int) -> list[np.ndarray]:
    return [part.copy() for part in np.split(array, np.cumsum(sizes)[:-1], axis=1)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("sizes", [(SIZE,), (1, 10, 1), (0, 1, 0, 11), (6, 5, 1, 0)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_a_gradient_in_parts_gives_the_same_bits_as_in_one(dtype: Any, sizes: tuple[int, ...], metric: str) -> None:
    cut = tiles((0, 0, 1), (1, 1, 5), (6, 1, 5), (11, 0, 1))
    whole = call(**{**arguments(dtype), "tiles": cut, "metric": metric})
    sides = {name: in_parts(whole[name], *sizes) for name in ("synthetic", "real")}
    got = call(
        **{**arguments(dtype), **sides, "cotangent": in_parts(np.ones_like(whole["cotangent"]), *sizes), "tiles": cut, "metric": metric}
    )
    np.testing.assert_array_equal(got["distance"], whole["distance"])
    np.testing.assert_array_equal(np.concatenate(got["cotangent"], 1), whole["cotangent"])


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("synthetic", [f(CLASSES, 6), f(CLASSES, 6, dtype=np.float64)]),
        ("synthetic", [f(CLASSES, 6), f(CLASSES + 1, 6)]),
        ("synthetic", [f(CLASSES, 6), f(6)]),
        ("real", [f(CLASSES, 5), f(CLASSES, 7)]),
        ("cotangent", [f(CLASSES, 6), read_only(f(CLASSES, 6))]),
        ("tiles", tiles((0, 1, 5), (5, 1, 7))),
        ("tiles", tiles((0, 1, 12))),
    ],
)
def test_parts_that_do_not_fit_are_refused_by_name(name: str, parts: Any) -> None:
    halves = {side: in_parts(arguments()[side], 6, 6) for side in ("synthetic", "real", "cotangent")}
    call(**halves, tiles=tiles((0, 1, 6), (6, 0, 6)))
    with pytest.raises(ValueError, match=rf"^{name} is .*; expected .*"):
        call(**{**halves, "tiles": tiles((0, 1, 6), (6, 0, 6)), name: parts})


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint16])
def test_by_addresses_as_by_arrays(dtype: Any, metric: str) -> None:
    generator, kind = np.random.default_rng(0), np.float32 if dtype == np.uint16 else dtype
    sides = [generator.standard_normal((1, SIZE)).astype(kind) for _ in range(2)]
    if dtype == np.uint16:
        sides = [(side.view(np.uint32) >> 16).astype(np.uint16) for side in sides]  # bfloat16
    synthetic, real = (in_parts(side, 5, 7) for side in sides)
    parts = {"synthetic": synthetic, "real": real, "cotangent": in_parts(np.ones((1, SIZE), dtype), 5, 7)}
    more = {"tiles": tiles((0, 1, 5), (5, 2, 3), (11, 0, 1)), "metric": metric, "threads": 2}
    expected = call(**parts, **more, distance=f(1, dtype=np.float64 if dtype == np.float64 else np.float32))
    cotangent = in_parts(np.ones((1, SIZE), dtype), 5, 7)
    found = compiled.extension.layerwise_distance_at(
        dtype="bfloat16" if dtype == np.uint16 else np.dtype(dtype).name,
        sizes=[5, 7],
        synthetic=[part.ctypes.data for part in synthetic],
        real=[part.ctypes.data for part in real],
        cotangent=[part.ctypes.data for part in cotangent],
        **more,
    )
    assert found == expected["distance"][0]
    np.testing.assert_array_equal(np.concatenate(cotangent, 1), np.concatenate(expected["cotangent"], 1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dtype", "int8"),
        ("sizes", []),
        ("sizes", [-1, 13]),
        ("synthetic, real or cotangent", [0]),
        ("metric", "euclid"),
        ("tiles", tiles((0, 1, 12))),
        ("tiles", tiles((0, 1, 5), (5, 1, 8))),
        ("threads", 0),
    ],
    ids=str,
)
def test_what_does_not_fit_by_addresses_is_refused_by_name(name: str, value: Any) -> None:
    parts = [np.ones(5, np.float32), np.ones(7, np.float32)]
    given: dict[str, Any] = {side: [part.ctypes.data for part in parts] for side in ("synthetic", "real", "cotangent")}
    given |= {"dtype": "float32", "sizes": [5, 7], "tiles": tiles((0, 1, 5), (5, 1, 7)), "metric": "mse", "threads": 1}
    assert compiled.extension.layerwise_distance_at(**given) == 0
    with pytest.raises(ValueError, match=rf"^{name} is .*; expected .*"):
        compiled.extension.layerwise_distance_at(**{**given, "real" if " or " in name else name: value})


def test_rows_without_end_of_nothing_are_counted_and_not_walked() -> None:
    script = "import test_cpp_bindings as t; g = t.arguments(); g['tiles'] = t.tiles((0, t.BIG, 0), (0, 1, 12)); "
    done = run_apart(script + "t.call(**g); print(g['distance'] >= t.BIG)", timeout=20)
    assert "False" not in done.stdout + done.stderr
    assert "True" in done.stdout


@pytest.mark.parametrize("name", ["synthetic", "real", "tiles", "distance", "cotangent"])
@pytest.mark.parametrize("value", [None, 3, "text", [[0.0] * SIZE] * CLASSES], ids=str)
def test_what_is_no_array_is_refused(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match="layerwise_distance"):
        call(**{name: value})


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**70, 1.5, None, "2"], ids=str)
def test_threads_that_are_no_int_are_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="layerwise_distance"):
        call(threads=value)


@pytest.mark.parametrize("name", ["sse", "", "AVX2", "avx2 ", "avx1024"])
def test_an_unknown_instruction_set_is_refused_and_nothing_changes(name: str) -> None:
    before = call()["cotangent"]
    with pytest.raises(ValueError, match=rf"^instruction set is '.*'; expected .*: {', '.join(INSTRUCTION_SETS)}\.$"):
        compiled.extension.select_instruction_set(name)
    np.testing.assert_array_equal(call()["cotangent"], before)


def test_instruction_sets_come_widest_first_and_baseline_always() -> None:
    assert [name for name in ("avx512", "avx2", "baseline") if name in INSTRUCTION_SETS] == INSTRUCTION_SETS
    assert INSTRUCTION_SETS[-1] == "baseline"


@pytest.mark.parametrize("metric", METRICS)
def test_every_instruction_set_gives_nearly_the_same(metric: str) -> None:
    results = []
    for name in INSTRUCTION_SETS:
        compiled.extension.select_instruction_set(name)
        results.append(call(metric=metric))
    compiled.extension.select_instruction_set(INSTRUCTION_SETS[0])
    for result in results[1:]:  # fused or not, a multiplication and an addition differ in the last bit of a double
        for output in ("distance", "cotangent"):
            np.testing.assert_allclose(result[output], results[0][output], rtol=ONE_UNIT_FLOAT32)


GIVEN: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "read-only": lambda x: read_only(x.copy()),
    "one class repeated": lambda x: np.broadcast_to(x[:1], x.shape),
    "classes backwards": lambda x: x[::-1].copy()[::-1],
    "gaps between classes": lambda x: np.concatenate([x, x], 1)[:, :SIZE],
    "at an odd address": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
}


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("view", GIVEN.values(), ids=GIVEN)
def test_inputs_that_are_unusual_and_right_are_taken(view: Callable[[np.ndarray], np.ndarray]) -> None:
    given = arguments()
    synthetic, real = view(given["synthetic"]), view(given["real"])
    got = call(synthetic=synthetic, real=real, tiles=read_only(given["tiles"]))
    right = call(synthetic=np.ascontiguousarray(synthetic), real=np.ascontiguousarray(real))
    for output in ("distance", "cotangent"):
        np.testing.assert_array_equal(got[output], right[output])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("classes", "size"), [(0, 0), (0, SIZE), (3, 0)])
def test_nothing_is_computed_for_nothing(classes: int, size: int, metric: str) -> None:
    cut = tiles((0, 1, size)) if size else tiles()
    got = call(
        synthetic=f(classes, size), real=f(classes, size), cotangent=f(classes, size), distance=f(classes) + 9, tiles=cut, metric=metric
    )
    assert not got["distance"].any()


@pytest.mark.usefixtures("_instruction_set")
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint16])
def test_nothing_is_written_beside_the_outputs(dtype: Any, metric: str) -> None:
    for length in range(1, 40):
        whole, distances = np.full(3 * length + 64, 7).astype(dtype), np.full(66, 7, np.float64 if dtype == np.float64 else np.float32)
        cotangent = whole[32 : 32 + 3 * length].reshape(1, -1)
        one = np.full(3 * length, 0x3F80 if dtype == np.uint16 else 1, dtype).reshape(1, -1)
        cut = tiles((0, 2, length), (2 * length, 0, length))
        call(synthetic=one, real=one, tiles=cut, metric=metric, distance=distances[32:33], cotangent=cotangent)
        assert (np.delete(whole, np.s_[32 : 32 + 3 * length]) == 7).all()
        assert (np.delete(distances, 32) == 7).all()
        assert not (cotangent[0, 2 * length :]).any()
        assert distances[32] < EQUAL_GRADIENTS


BESIDE_A_WALL = """
import ctypes, mmap
import numpy as np
import test_cpp_bindings as t

def at_the_end(array):
    # a copy whose last byte is the last one before a page that must not be touched
    page, length = mmap.PAGESIZE, -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, length + page)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + length), page, 0) == 0
    view = np.frombuffer(memory, np.uint8, array.nbytes, length - array.nbytes).view(array.dtype).reshape(array.shape)
    view[...] = array
    kept.append(memory)
    return view

for name in t.INSTRUCTION_SETS:
    t.compiled.extension.select_instruction_set(name)
    for dtype in (np.float32, np.float64, np.float16, np.uint16):
        for length in (*range(1, 20), 63, 129, 1152):
            kept = []
            walled = [at_the_end(np.ones((1, 2 * length), dtype)) for _ in range(3)]
            distance = at_the_end(np.zeros(1, np.float64 if dtype == np.float64 else np.float32))
            cut = at_the_end(t.tiles((0, 2, length)))
            for metric in t.METRICS:
                t.call(synthetic=walled[0], real=walled[1], cotangent=walled[2], distance=distance, tiles=cut, metric=metric)
print("done")
"""


def test_nothing_is_read_beyond_the_inputs() -> None:
    done = run_apart(BESIDE_A_WALL, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


def test_more_threads_than_work_or_processors() -> None:
    right = call()
    for number in (2, 3, 100, 2**31 - 1):
        got = call(threads=number)
        for output in ("distance", "cotangent"):
            np.testing.assert_array_equal(got[output], right[output])


# The stub


def signatures_in_stub() -> dict[str, str]:
    """Of all that _C.pyi has: name -> parameters, without their types."""
    found = {}
    for node in ast.parse((Path(compiled.__file__).parents[1] / "_C.pyi").read_text()).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}": parameters(each) for each in node.body if isinstance(each, ast.FunctionDef)}
        elif isinstance(node, ast.FunctionDef):
            found[node.name] = parameters(node)
    return found


def signatures_in_module() -> dict[str, str]:
    """The same of the module, whose docstrings begin with signatures."""
    found = {}
    for name, value in vars(compiled.extension).items():
        parts = {f"{name}.{part}": each for part, each in vars(value).items()} if isinstance(value, type) else {name: value}
        for place, each in parts.items():
            part = place.rpartition(".")[2]
            if callable(each) and (not part.startswith("_") or part == "__init__"):
                node = ast.parse(f"def {each.__doc__.splitlines()[0]}: ...").body[0]
                assert isinstance(node, ast.FunctionDef)
                found[place] = parameters(node)
    return found


def parameters(function: ast.FunctionDef) -> str:
    for each in [*function.args.args, *function.args.kwonlyargs]:
        each.annotation = None
    return ast.unparse(function.args)


def test_the_stub_has_the_names_and_parameters_of_the_module() -> None:
    assert signatures_in_stub() == signatures_in_module()
