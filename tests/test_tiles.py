"""Tiles: whatever the layout, a cut of the whole vector into whole rows, in pieces of a bounded number."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdc import UsageError
from fastdc.metrics import tiles
from fastdc.metrics.tiles import tiles_of

CPU = torch.device("cpu")
SMALLEST, MOST = 4096, 1024  # as fastdc.metrics.tiles says

# Gap before it, rows, row_length of each parameter that has rows; sizes that make one tile, many, or none.
lengths = st.one_of(st.integers(0, 30), st.integers(4000, 4200), st.integers(0, 10**9))
parameters = st.lists(st.tuples(lengths, st.one_of(st.integers(1, 40), st.integers(1, 10**6)), lengths), max_size=6)


def laid_out(spans: list[tuple[int, int, int]], tail: int) -> tuple[tuple[int, ...], int]:
    """Segments, as `ParameterLayout.segments` gives them, and P."""
    segments, end = [], 0
    for gap, rows, row_length in spans:
        segments += [end + gap, rows, row_length]
        end += gap + rows * row_length
    return tuple(segments), end + tail


@settings(max_examples=300, deadline=None)
@given(spans=parameters, tail=lengths)
def test_tiles_cover_the_vector_in_order_without_overlap(spans: list[tuple[int, int, int]], tail: int) -> None:
    segments, size = laid_out(spans, tail)
    tiles = tiles_of(segments, size, CPU)
    assert (tiles.dtype, tiles.dim(), tiles.shape[1], tiles.is_contiguous()) == (torch.int64, 2, 3, True)
    end = 0
    for offset, rows, row_length in tiles.tolist():
        assert offset == end
        assert rows >= 0
        assert row_length > 0 or rows > 0, "a tile of nothing"
        end += max(rows, 1) * row_length
    assert end == size


@settings(max_examples=300, deadline=None)
@given(spans=parameters, tail=lengths)
def test_tiles_hold_whole_rows_of_one_parameter_each_once(spans: list[tuple[int, int, int]], tail: int) -> None:
    segments, size = laid_out(spans, tail)
    tiles = [tile for tile in tiles_of(segments, size, CPU).tolist() if tile[1]]
    for offset, rows, row_length in zip(*[iter(segments)] * 3, strict=True):
        end, found = offset, 0
        while found < rows:
            tile = tiles.pop(0)
            assert (tile[0], tile[2]) == (end, row_length)
            found, end = found + tile[1], end + tile[1] * row_length
        assert found == rows
    assert not tiles


@settings(max_examples=300, deadline=None)
@given(spans=parameters, tail=lengths)
def test_tiles_are_of_about_one_size_and_of_a_bounded_number(spans: list[tuple[int, int, int]], tail: int) -> None:
    segments, size = laid_out(spans, tail)
    target = max(SMALLEST, -(-size // MOST))
    tiles = tiles_of(segments, size, CPU).tolist()
    assert len(tiles) <= 2 * MOST + 2 * len(spans) + 1  # a factor of two; one more per parameter, and per gap around it
    for _, rows, row_length in tiles:
        assert rows == 1 or max(rows, 1) * row_length <= target


@pytest.mark.parametrize(
    ("segments", "size", "expected"),
    [
        ((), 0, []),
        ((), 5, [(0, 0, 5)]),
        ((0, 2, 3), 6, [(0, 2, 3)]),
        ((2, 2, 3), 10, [(0, 0, 2), (2, 2, 3), (8, 0, 2)]),
        ((0, 3, 0), 0, [(0, 3, 0)]),
        ((0, 2, 3000, 6000, 1, 5000), 11000, [(0, 1, 3000), (3000, 1, 3000), (6000, 1, 5000)]),
        ((0, 3, 2048), 6144, [(0, 2, 2048), (4096, 1, 2048)]),
        ((), 8193, [(0, 0, 4096), (4096, 0, 4096), (8192, 0, 1)]),
    ],
)
def test_tiles_of_small_layouts(segments: tuple[int, ...], size: int, expected: list[tuple[int, int, int]]) -> None:
    assert [tuple(tile) for tile in tiles_of(segments, size, CPU).tolist()] == expected


def test_a_table_is_not_made_while_a_graph_is_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tiles_of((0, 2, 5), 10, CPU)
    monkeypatch.setattr(tiles, "is_capturing", lambda device: True)
    monkeypatch.setattr(tiles, "_in_graphs", {})
    for _ in range(2):  # a refusal is not kept for a table
        with pytest.raises(UsageError, match=r"call it once with these shapes before capturing\.$"):
            tiles_of((0, 2, 7), 14, CPU)
    assert tiles_of((0, 2, 5), 10, CPU) is kept
    assert list(tiles._in_graphs.values()) == [kept]  # the graph reads it long after the cache has forgotten it


def test_segments_that_are_no_triples_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        tiles_of((0, 2), 6, CPU)
