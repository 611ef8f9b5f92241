"""A bucket on loopback: moto's server, one for a session, and credentials that open nothing else."""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any
from uuid import uuid4

import pytest


@cache
def server() -> str:
    """The URL of a server that runs as long as the tests do."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    return f"http://{host}:{port}"


def environment(endpoint: str) -> dict[str, str]:
    """What finds the server, also in other processes."""
    return {
        "AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


def client(endpoint: str) -> Any:
    """boto3's, for what tests do behind doppel's back."""
    import boto3

    return boto3.client(
        "s3", endpoint_url=endpoint, aws_access_key_id="nobody", aws_secret_access_key="nothing",
        region_name="us-east-1",
    )  # fmt: skip


def new_bucket(endpoint: str) -> str:
    name = f"b{uuid4().hex[:20]}"
    client(endpoint).create_bucket(Bucket=name)
    return name


def opened(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a new bucket, which this process finds; file systems that others opened without it are forgotten."""
    from s3fs import S3FileSystem

    for name, value in environment(server()).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    return new_bucket(server())


def names(bucket: str) -> set[str]:
    """The names of all objects in a bucket."""
    pages = client(server()).get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return {entry["Key"] for page in pages for entry in page.get("Contents", ())}


def content(bucket: str, name: str) -> bytes:
    return bytes(client(server()).get_object(Bucket=bucket, Key=name)["Body"].read())


def uploads(bucket: str) -> list[str]:
    """The names of uploads that were begun and not completed."""
    return [entry["Key"] for entry in client(server()).list_multipart_uploads(Bucket=bucket).get("Uploads", ())]
