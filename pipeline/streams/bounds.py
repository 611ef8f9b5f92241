"""How much of one input may be held at a time: what is larger is refused before it is read."""

from __future__ import annotations

from pydantic import Field

from pipeline.section import Section


class Bounds(Section):
    """The largest things that are read whole. What exceeds a bound is a row in quarantine, or a damaged shard."""

    member_bytes: int = Field(default=1 << 28, ge=1)
    """Bytes of one member, file or cell."""
    sample_bytes: int = Field(default=1 << 29, ge=1)
    """Bytes of all members of one sample."""
    sample_members: int = Field(default=1000, ge=1)
    """Members of one sample."""
    header_bytes: int = Field(default=1 << 20, ge=512)
    """Bytes of the extended headers before one member of a tar, which hold its name where that is long."""
    unsorted_bytes: int = Field(default=1 << 36, ge=1)
    """Bytes that a tar may have unpacked where `unsorted: true` needs a temporary file for it."""
    metadata_bytes: int = Field(default=1 << 30, ge=1)
    """Bytes of one file that says something of many images of a folder: annotations, or a table."""
    line_bytes: int = Field(default=1 << 20, ge=1)
    """Bytes of one line of a jsonl file."""
    key_bytes: int = Field(default=200, ge=1)
    """Bytes of a key in UTF-8 that a line of a jsonl file states."""
    files: int = Field(default=1_000_000, ge=1)
    """Files that a pattern may stand for."""
    page_bytes: int = Field(default=1 << 30, ge=1)
    """Bytes of one page of a parquet file, which can only be decoded as a whole; two or three times as many are used.
    Where writers put a whole row group into a page, it must allow for one."""
    footer_bytes: int = Field(default=1 << 26, ge=1)
    """Bytes of the footer of a parquet file, which lists its row groups."""
