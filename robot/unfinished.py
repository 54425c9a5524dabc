"""Read a Parquet file that was never closed: its pages are there, but not the footer that says where.

A writer that is killed leaves whole row groups (LeRobot's: one per episode), perhaps a part of one, and no footer. Here
the pages are walked one by one, and a footer is written for them: that of another file of the same columns, with these
row groups. The format: https://parquet.apache.org/docs/file-format; its headers are in Thrift's compact protocol.
"""

import io
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import pyarrow
import pyarrow.parquet

MAGIC = b"PAR1"
TRUE, FALSE, INTEGERS, I64, BINARY, LIST, STRUCT = 1, 2, (4, 5, 6), 6, 8, 9, 12  # Thrift's compact types
DICTIONARY, HEADERS = 2, {0: 5, 3: 8}  # Parquet's types of pages: for each of data, the field of its own header


class Field(NamedTuple):
    """A field of a Thrift struct, and where its value begins and ends."""

    value: Any
    start: int
    end: int


class Page(NamedTuple):
    """A page at `start`: its bytes with its header, its values; a dictionary has none."""

    start: int
    size: int
    values: int


class Column(NamedTuple):
    """A column: the bytes that say its type, encodings, path and codec; its values in a row; has it a dictionary?"""

    head: bytes
    width: int
    dictionary: bool


def row_groups(data: bytes, schema: pyarrow.Schema, widths: Mapping[str, int]) -> Iterator[pyarrow.Table]:
    """Yield the whole row groups of an unclosed file, up to the first damage; `widths`: a column's values in a row."""
    sink = io.BytesIO()
    row = pyarrow.Table.from_arrays([pyarrow.nulls(1, field.type) for field in schema], schema=schema)
    pyarrow.parquet.write_table(row, sink, compression="snappy", use_dictionary=True)
    example = sink.getvalue()
    at = len(example) - 8 - int.from_bytes(example[-8:-4], "little")
    footer = _struct(sink, at)
    columns = []
    for chunk in footer[4].value[0][1].value:
        about = chunk[3].value
        name = about[3].value[0].decode()  # the first part of its path
        columns.append(Column(example[chunk[3].start : about[4].end], widths.get(name, 1), 11 in about))
    pages, groups, total, end = list(_pages(data)), list[bytes](), 0, len(MAGIC)
    while found := _group(pages, columns):
        rows, chunks = found
        groups.append(_row_group(columns, chunks, rows))
        total, end = total + rows, chunks[-1][-1].start + chunks[-1][-1].size
        pages = pages[sum(map(len, chunks)) :]
    if not groups:
        return
    ours = example[at : footer[2].end] + _number(1, total) + _structs(groups) + example[footer[4].end : -8]
    whole = pyarrow.BufferReader(b"".join([data[:end], ours, len(ours).to_bytes(4, "little"), MAGIC]))
    with suppress(pyarrow.ArrowException, OSError):  # from the first damage on, e.g. zeros after a power cut
        file = pyarrow.parquet.ParquetFile(whole)
        yield from (file.read_row_group(number) for number in range(len(groups)))


def _pages(data: bytes) -> Iterator[Page]:
    """Yield the pages that are in the file as a whole."""
    file, at = io.BytesIO(data), len(MAGIC)
    with suppress(IndexError, KeyError, TypeError, ValueError):  # the end, or what is no header
        while True:
            header = _struct(file, at)
            kind, body = header[1].value, header[3].value
            values = 0 if kind == DICTIONARY else header[HEADERS[kind]].value[1].value
            end = file.tell() + body
            if body < 0 or values < 0 or end > len(data):
                return
            yield Page(at, end - at, values)
            at = end


def _group(pages: list[Page], columns: list[Column]) -> tuple[int, list[list[Page]]] | None:
    """Return the rows of the row group with which the pages begin, and each column's pages; None if it is not whole."""
    ends: dict[int, int] = {}  # after so many values, so many pages: a dictionary belongs to what follows
    for count, values in enumerate(accumulate(page.values for page in pages), 1):
        ends.setdefault(values, count)
    shares = list(accumulate(column.width for column in columns))
    for values in ends:
        rows, rest = divmod(values, shares[0])
        if rows and not rest and all(rows * share in ends for share in shares):
            chunks = [pages[a:b] for a, b in pairwise([0, *(ends[rows * share] for share in shares)])]
            if all(c.dictionary == (not chunk[0].values) for c, chunk in zip(columns, chunks, strict=True)):
                return rows, chunks
    return None


def _row_group(columns: list[Column], chunks: list[list[Page]], rows: int) -> bytes:
    """Encode the description of a row group whose columns have these pages."""
    parts, whole = [], 0
    for column, pages in zip(columns, chunks, strict=True):
        size = sum(page.size for page in pages)
        about = column.head + _number(1, rows * column.width) + _number(1, size) + _number(1, size)
        about += _number(2, pages[column.dictionary].start)
        about += _number(2, pages[0].start) if column.dictionary else b""
        parts.append(_number(2, 0) + bytes([1 << 4 | STRUCT]) + about + b"\0\0")
        whole += size
    return _structs(parts) + _number(1, whole) + _number(1, rows) + b"\0"


def _struct(file: io.BytesIO, at: int) -> dict[int, Field]:
    """Decode the struct at `at` to its fields by their number. Raises IndexError or ValueError for what is none."""
    file.seek(at)
    fields, number = dict[int, Field](), 0
    while head := file.read(1)[0]:
        number = number + (head >> 4) if head >> 4 else _value(file, I64)
        start = file.tell()
        fields[number] = Field(_value(file, head & 15), start, file.tell())
    return fields


def _value(file: io.BytesIO, kind: int) -> Any:
    if kind in (TRUE, FALSE):
        return kind == TRUE
    if kind == STRUCT:
        return _struct(file, file.tell())
    if kind == LIST:
        head = file.read(1)[0]
        return [_value(file, head & 15) for _ in range(head >> 4 if head >> 4 < 15 else _varint(file))]
    if kind == BINARY:
        return file.read(_varint(file))
    if kind not in INTEGERS:
        raise ValueError(f"type {kind}")
    number = _varint(file)
    return (number >> 1) ^ -(number & 1)


def _varint(file: io.BytesIO) -> int:
    number = shift = 0
    while (byte := file.read(1)[0]) > 127:
        number, shift = number | (byte & 127) << shift, shift + 7
    return number | byte << shift


def _number(step: int, value: int) -> bytes:
    """Encode a field, `step` after the one before, that is a number of at least 0."""
    return bytes([step << 4 | I64]) + _as_varint(2 * value)


def _structs(each: list[bytes]) -> bytes:
    """Encode a field, the next after the one before, that is a list of structs."""
    return bytes([1 << 4 | LIST, 0xF0 | STRUCT]) + _as_varint(len(each)) + b"".join(each)


def _as_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])
