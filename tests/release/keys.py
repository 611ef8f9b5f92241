"""Keys of these tests, in the forms of the standards."""

from __future__ import annotations

import base64

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
"""Test 1 of RFC 8032, 7.1."""
PKCS8, SPKI = bytes.fromhex("302e020100300506032b657004220420"), bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of a private and a public key (RFC 8410)."""


def pem(label: str, content: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n{base64.b64encode(content).decode()}\n-----END {label}-----\n".encode()


ASSESSMENT = {"review_by": "2999-01-01", "expires": "2999-06-01"}
"""Of the signed release."""
