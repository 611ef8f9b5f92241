"""Streams."""
from pipeline.streams.shards import WebDatasetInput
AnyInput = WebDatasetInput
