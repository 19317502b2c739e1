"""The list of a row's ids that matter, written once the row is read: until then an id is a bit of its slot."""

# mypy: disable-error-code="no-untyped-def, untyped-decorator, no-untyped-call"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def write_blocks(hits, slots, first_id, num_blocks, num_listed, places, LIST: tl.constexpr, BLOCK: tl.constexpr):
    """Lists id first_id + k·BLOCK + slot for every bit k of a slot's hits, ascending; the list's new length.

    Four blocks' places are counted by one scan, 16 bits each.
    """
    for block in range(0, num_blocks, 4):
        four = (hits >> block) & 15
        wide = four.to(tl.int64)
        counts = (wide | (wide << 15) | (wide << 30) | (wide << 45)) & 0x0001000100010001
        reached, totals = tl.cumsum(counts, 0), tl.sum(counts, 0)
        for lane in tl.static_range(4):
            at = num_listed + ((reached >> (16 * lane)) & 0xFFFF).to(tl.int32) - 1
            ids = first_id + (block + lane) * BLOCK + slots
            tl.store(places + at, ids, mask=(((four >> lane) & 1) > 0) & (at < LIST))
            num_listed += ((totals >> (16 * lane)) & 0xFFFF).to(tl.int32)
    return num_listed


@triton.jit
def write_hits(
    hits,  # int32 [BLOCK]: bit k is set where id first_id + k·BLOCK + slot is to be listed
    first_id, num_blocks, num_listed, places, scratch, LIST: tl.constexpr, FEW: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The list, longer by those ids, of which the first LIST are kept; its new length.

    Most slots have none: up to FEW others are brought together first, by way of `scratch` (int32 [2·FEW]).
    """
    slots = tl.arange(0, BLOCK)
    hit = (hits != 0).to(tl.int32)
    num_hit = tl.sum(hit, 0)
    if num_hit <= FEW:
        at = tl.cumsum(hit, 0) - 1
        tl.store(scratch + at, slots, mask=hit > 0)
        tl.store(scratch + FEW + at, hits, mask=hit > 0)
        tl.debug_barrier()  # other threads wrote
        few = tl.arange(0, FEW)
        few_slots = tl.load(scratch + few, mask=few < num_hit, other=0)
        few_hits = tl.load(scratch + FEW + few, mask=few < num_hit, other=0)
        num_listed = write_blocks(few_hits, few_slots, first_id, num_blocks, num_listed, places, LIST, BLOCK)
        tl.debug_barrier()  # the next ones overwrite
    else:
        num_listed = write_blocks(hits, slots, first_id, num_blocks, num_listed, places, LIST, BLOCK)
    return num_listed
