"""What a job wrote, read again: by our own readers, and by the libraries that people use."""

from __future__ import annotations

import glob
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.media.provenance import PROVENANCE
from pipeline.media.records import Sample
from pipeline.streams import FolderInput, HubInput, WebDatasetInput
from pipeline.streams.contract import InputShard
from pipeline.streams.names import escape_dots
from tests.corpus.case import Case, Good


def by_us(case: Case, format: str, data: Path) -> None:
    """Our reader of that format takes all of it, and finds the same samples."""
    written = case.written(format)
    if not written:
        return
    files = tuple(str(path) for path in sorted(data.glob("*")))
    if format == "webdataset":
        samples = everything(WebDatasetInput(urls=files, **case.read_as).open().shards)
        assert all(PROVENANCE in sample.members for sample in samples)
        keys = {sample.key for sample in samples}
        assert keys in (set(written), set(map(escape_dots, written)))
    elif format == "parquet":
        named = tuple(map(glob.escape, files))
        samples = everything(HubInput(path="parquet", data_files=named, image=_image_column(files[0])).open().shards)
    else:
        samples = everything(FolderInput(path=str(data)).open().shards)
    assert len(samples) == len(written)


def everything(shards: Iterable[InputShard]) -> list[Sample]:
    """All samples; none may be rejected."""
    read = [item for shard in shards for item in shard.read()]
    assert all(isinstance(item, Sample) for item in read), read
    return [item for item in read if isinstance(item, Sample)]


def by_others(format: str, data: Path, written: Mapping[str, Good]) -> None:
    """webdataset and `datasets` find as many samples, with their keys, labels and images."""
    import datasets
    import webdataset

    files = [str(path) for path in sorted(data.glob("*"))]
    read: list[Any]
    if format == "webdataset":
        read = list(webdataset.WebDataset(files, shardshuffle=False).decode("pil"))
        keys = Counter(item["__key__"] for item in read)
        assert keys == Counter(dict.fromkeys(written, 1).keys())
        assert all(item["png"].size for item in read)
        return
    if format == "parquet":
        read = list(datasets.load_dataset("parquet", data_files=files, split="train", streaming=True))
        assert all(item[_image_column(files[0])].size for item in read)
    else:
        found = datasets.load_dataset("imagefolder", data_dir=str(data), split="train", streaming=True)
        read = list(found)
        assert all(item["image"].size for item in read)
    assert len(read) == len(written)


def _image_column(file: str) -> str:
    import pyarrow.parquet as pq

    names = pq.read_schema(file).names
    return "image" if "image" in names else "img"
