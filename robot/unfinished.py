"""Read a Parquet file that was never closed: its pages are there, but not the footer that says where.

A writer that is killed leaves whole row groups (LeRobot's: one per episode), perhaps a part of one, and no footer. Here
the pages are walked one by one, and a footer is written for them, after the example of a file of the same columns. The
format: https://parquet.apache.org/docs/file-format; its headers are in Thrift's compact protocol.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow
import pyarrow.parquet

MAGIC = b"PAR1"
TRUE, FALSE, BYTE, I64, BINARY, LIST, STRUCT = 1, 2, 3, 6, 8, 9, 12  # Thrift's compact types; 4 and 5 are as 6
DICTIONARY, VALUES = 2, {0: 5, 3: 8}  # Parquet's types of pages: for each of data, the field of its own header


@dataclass(frozen=True)
class Page:
    """A page at `start`: its bytes with its header, its values; a dictionary has none."""

    start: int
    size: int
    values: int


def row_groups(data: bytes, schema: pyarrow.Schema, widths: Mapping[str, int]) -> Iterator[pyarrow.Table]:
    """Yield the whole row groups of an unclosed Parquet file with this schema, in order, up to the first damage.

    `widths`: the values in a row of each column, 1 if not given.
    """
    metadata, chunks = _example(schema)
    leaves = [widths.get(chunk[3][1][3][1][1][0].decode(), 1) for chunk in chunks]  # by the first part of its path
    pages, end, groups = list(_pages(data)), len(MAGIC), list[dict]()
    while found := _group(pages, leaves):
        rows, counts = found
        columns = []
        for chunk, count, width in zip(chunks, counts, leaves, strict=True):
            columns.append(_described(chunk, pages[:count], rows * width))
            end, pages = pages[count - 1].start + pages[count - 1].size, pages[count:]
        size = sum(column[3][1][7][1] for column in columns)
        groups.append({1: (LIST, (STRUCT, columns)), 2: (I64, size), 3: (I64, rows)})
    rows = sum(group[3][1] for group in groups)
    footer = _packed(STRUCT, metadata | {3: (I64, rows), 4: (LIST, (STRUCT, groups))})
    whole = b"".join([data[:end], footer, len(footer).to_bytes(4, "little"), MAGIC])
    if not groups:
        return
    file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(whole))
    with suppress(pyarrow.ArrowException, OSError):  # from the first damage on, e.g. zeros after a power cut
        for number in range(len(groups)):
            yield file.read_row_group(number)


def _example(schema: pyarrow.Schema) -> tuple[dict, list[dict]]:
    """Return the footer of a file with one empty row of this schema, and its column chunks."""
    sink = io.BytesIO()
    row = pyarrow.Table.from_arrays([pyarrow.nulls(1, field.type) for field in schema], schema=schema)
    pyarrow.parquet.write_table(row, sink, compression="snappy", use_dictionary=True)
    data = sink.getvalue()
    size = int.from_bytes(data[-8:-4], "little")
    footer, _ = _unpacked(data, len(data) - 8 - size, STRUCT)
    return footer, footer[4][1][1][0][1][1][1]


def _pages(data: bytes) -> Iterator[Page]:
    """Yield the pages that are in the file as a whole."""
    at = len(MAGIC)
    while True:
        try:
            header, body = _unpacked(data, at, STRUCT)
            kind, end = header[1][1], body + header[3][1]
            values = 0 if kind == DICTIONARY else header[VALUES[kind]][1][1][1]
        except (IndexError, KeyError, TypeError, ValueError):
            return
        if not body <= end <= len(data) or values < 0:
            return
        yield Page(at, end - at, values)
        at = end


def _group(pages: list[Page], leaves: list[int]) -> tuple[int, list[int]] | None:
    """Return the rows of the row group with which the pages begin, and each column's pages; None if it is not whole.

    The first column says how many rows there are; where it ends is what fits all the others.
    """
    values = 0
    for page in pages:
        values += page.values
        rows, rest = divmod(values, leaves[0])
        if page.values and not rest and (counts := _counts(pages, [rows * width for width in leaves])):
            return rows, counts
    return None


def _counts(pages: list[Page], wanted: list[int]) -> list[int] | None:
    """Return how many pages each column has if it has so many values: a dictionary first, if any, then its data."""
    counts, at = [], 0
    for values in wanted:
        first, left = at, values
        while left > 0:
            if at == len(pages) or (not pages[at].values and at > first):
                return None
            left -= pages[at].values
            at += 1
        if left:
            return None
        counts.append(at - first)
    return counts


def _described(chunk: dict, pages: list[Page], values: int) -> dict:
    """Return the description of a column chunk with these pages, after an example."""
    about = {field: chunk[3][1][field] for field in (1, 2, 3, 4)}  # type, encodings, path, codec
    size, data = sum(page.size for page in pages), next(page.start for page in pages if page.values)
    about |= {5: (I64, values), 6: (I64, size), 7: (I64, size), 9: (I64, data)}
    about |= {} if pages[0].values else {11: (I64, pages[0].start)}
    return {2: (I64, 0), 3: (STRUCT, about)}


def _unpacked(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    """Decode a value of Thrift's compact protocol: a struct to {field: (type, value)}, a list to (type, values).

    Returns it and where it ends. Raises IndexError or ValueError for what is none.
    """
    if kind in (TRUE, FALSE):
        return kind == TRUE, at
    if kind == BYTE:
        return data[at : at + 1], at + 1
    if kind == STRUCT:
        fields: dict[int, tuple[int, Any]] = {}
        number = 0
        while head := data[at]:
            at += 1
            if head >> 4:
                number += head >> 4
            else:
                number, at = _unpacked(data, at, 4)
            value, at = _unpacked(data, at, head & 15)
            fields[number] = head & 15, value
        return fields, at + 1
    if kind == LIST:
        count, of, at = data[at] >> 4, data[at] & 15, at + 1
        if count == 15:
            count, at = _varint(data, at)
        values = []
        for _ in range(count):
            value, at = _unpacked(data, at, of)
            values.append(value)
        return (of, values), at
    number, at = _varint(data, at)
    if kind == BINARY:
        return data[at : at + number], at + number
    if kind not in (4, 5, I64):
        raise ValueError(f"type {kind}")
    return (number >> 1) ^ -(number & 1), at


def _packed(kind: int, value: Any) -> bytes:
    """Encode what `_unpacked` returns."""
    if kind in (TRUE, FALSE):
        return b""
    if kind == BYTE:
        return value
    if kind == STRUCT:
        out, last = [], 0
        for number, (of, each) in sorted(value.items()):
            out += [bytes([(number - last) << 4 | of]), _packed(of, each)]
            last = number
        return b"".join([*out, b"\0"])
    if kind == LIST:
        of, values = value
        head = bytes([len(values) << 4 | of]) if len(values) < 15 else bytes([0xF0 | of]) + _bytes(len(values))
        return b"".join([head, *(_packed(of, each) for each in values)])
    if kind == BINARY:
        return _bytes(len(value)) + value
    return _bytes(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return number, at


def _bytes(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
