"""Kernels of coordinate attention in triton's language; `fused` calls them.

Arrays are contiguous: queries (B, N, C) and keys (B, M, C) in float16, the rest float32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _doubled_index(key, size_y: tl.constexpr, size_x: tl.constexpr, size_z: tl.constexpr):
    """Of flat key numbers: twice the (z, y, x) index from the middle, float32."""
    z = 2 * (key // (size_y * size_x)) - (size_z - 1)
    y = 2 * (key // size_x % size_y) - (size_y - 1)
    x = 2 * (key % size_x) - (size_x - 1)
    return z.to(tl.float32), y.to(tl.float32), x.to(tl.float32)


@triton.jit
def _rounded(x, PRODUCT: tl.constexpr):
    """Rounded to bfloat16, as PRODUCT: float32 for the interpreter, which can't multiply it."""
    return x.to(tl.bfloat16).to(PRODUCT)


@triton.jit
def _columns(z, y, x, column):
    """(keys, 16): 1, z, y, x, then the squares' upper parts, then what is left."""
    axis = (column - 1) % 3
    index = tl.where(axis == 0, z, tl.where(axis == 1, y, x))
    square = index * index
    upper = square.to(tl.bfloat16).to(tl.float32)
    value = tl.where(column < 4, index, tl.where(column < 7, upper, square - upper))
    value = tl.where(column == 0, 1.0, value)
    return tl.where(column < 10, value, 0.0)


@triton.jit
def _rows(features, row, count, channel, channels: tl.constexpr):
    """(rows, channels) of a contiguous array, zero where there are none."""
    there = (row < count)[:, None] & (channel < channels)[None, :]
    return tl.load(features + row[:, None] * channels + channel[None, :], mask=there, other=0.0)


@triton.jit
def forward(
    queries,
    keys,
    sums,
    n_queries,
    n_keys,
    size_z: tl.constexpr,
    size_y: tl.constexpr,
    size_x: tl.constexpr,
    channels: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRODUCT: tl.constexpr,
    FINE: tl.constexpr,
):
    """sums (B, N, 16) = Σ 2^logit · columns of the key. FINE: weights in two parts."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, WIDTH)
    column = tl.arange(0, 16)
    query = _rows(queries + batch * n_queries * channels, row, n_queries, channel, channels)
    keys += batch * n_keys * channels
    total = tl.zeros((QUERIES, 16), tl.float32)
    for start in range(0, n_keys, KEYS):
        number = start + tl.arange(0, KEYS)
        key = _rows(keys, number, n_keys, channel, channels)
        logit = tl.dot(query, tl.trans(key))
        weight = tl.exp2(logit)
        z, y, x = _doubled_index(number, size_y, size_x, size_z)
        values = _columns(z[:, None], y[:, None], x[:, None], column[None, :])
        values = tl.where((number < n_keys)[:, None], values, 0.0)
        values = _rounded(values, PRODUCT)
        upper = _rounded(weight, PRODUCT)
        total = tl.dot(upper, values, acc=total)
        if FINE:
            total = tl.dot(_rounded(weight - upper.to(tl.float32), PRODUCT), values, acc=total)
    place = sums + (batch * n_queries + row[:, None]) * 16 + column[None, :]
    tl.store(place, total, mask=(row < n_queries)[:, None])


@triton.jit
def _d_logit(logit, pull_z, pull_y, pull_x, offset, log_total, z, y, x):
    """d loss / d logit: normalised weight times what the row's gradient gains by the key."""
    return tl.exp2(logit - log_total) * (pull_z * z + pull_y * y + pull_x * x - offset)


@triton.jit
def _row_terms(terms, row, count):
    """Pull on z, y, x, offset and log₂ of the sum of weights: five numbers a query."""
    place = terms + row * 5
    there = row < count
    return (
        tl.load(place, mask=there, other=0.0),
        tl.load(place + 1, mask=there, other=0.0),
        tl.load(place + 2, mask=there, other=0.0),
        tl.load(place + 3, mask=there, other=0.0),
        tl.load(place + 4, mask=there, other=0.0),
    )


@triton.jit
def backward_queries(
    queries,
    keys,
    terms,
    d_queries,
    n_queries,
    n_keys,
    size_z: tl.constexpr,
    size_y: tl.constexpr,
    size_x: tl.constexpr,
    channels: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """d_queries (B, N, C): a block of queries walks over all keys."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channel = tl.arange(0, WIDTH)
    query = _rows(queries + batch * n_queries * channels, row, n_queries, channel, channels)
    pull_z, pull_y, pull_x, offset, log_total = _row_terms(
        terms + batch * n_queries * 5, row, n_queries
    )
    keys += batch * n_keys * channels
    total = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, n_keys, KEYS):
        number = start + tl.arange(0, KEYS)
        key = _rows(keys, number, n_keys, channel, channels)
        logit = tl.dot(query, tl.trans(key))
        z, y, x = _doubled_index(number, size_y, size_x, size_z)
        slope = _d_logit(
            logit,
            pull_z[:, None],
            pull_y[:, None],
            pull_x[:, None],
            offset[:, None],
            log_total[:, None],
            z[None, :],
            y[None, :],
            x[None, :],
        )
        # Keys beyond the last are rows of zeros: what their weight is doesn't matter.
        total = tl.dot(_rounded(slope, PRODUCT), _rounded(key, PRODUCT), acc=total)
    place = d_queries + (batch * n_queries + row[:, None]) * channels + channel[None, :]
    tl.store(place, total, mask=(row < n_queries)[:, None] & (channel < channels)[None, :])


@triton.jit
def backward_keys(
    queries,
    keys,
    terms,
    d_keys,
    n_queries,
    n_keys,
    size_z: tl.constexpr,
    size_y: tl.constexpr,
    size_x: tl.constexpr,
    channels: tl.constexpr,
    WIDTH: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    PRODUCT: tl.constexpr,
):
    """d_keys (B, M, C): a block of keys walks over all queries."""
    batch = tl.program_id(1).to(tl.int64)
    number = tl.program_id(0) * KEYS + tl.arange(0, KEYS)
    channel = tl.arange(0, WIDTH)
    key = _rows(keys + batch * n_keys * channels, number, n_keys, channel, channels)
    z, y, x = _doubled_index(number, size_y, size_x, size_z)
    queries += batch * n_queries * channels
    terms += batch * n_queries * 5
    total = tl.zeros((KEYS, WIDTH), tl.float32)
    for start in range(0, n_queries, QUERIES):
        row = start + tl.arange(0, QUERIES)
        query = _rows(queries, row, n_queries, channel, channels)
        logit = tl.dot(key, tl.trans(query))
        pull_z, pull_y, pull_x, offset, log_total = _row_terms(terms, row, n_queries)
        slope = _d_logit(
            logit,
            pull_z[None, :],
            pull_y[None, :],
            pull_x[None, :],
            offset[None, :],
            log_total[None, :],
            z[:, None],
            y[:, None],
            x[:, None],
        )
        total = tl.dot(_rounded(slope, PRODUCT), _rounded(query, PRODUCT), acc=total)
    place = d_keys + (batch * n_keys + number[:, None]) * channels + channel[None, :]
    tl.store(place, total, mask=(number < n_keys)[:, None] & (channel < channels)[None, :])
