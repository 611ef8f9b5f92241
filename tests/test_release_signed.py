"""Whose a release is: signatures, keys that do not fit, forgers with keys of their own, and `doppel verify`."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.cli import main
from pipeline.commands.verify import verify_release
from pipeline.errors import UserError
from pipeline.release import check_release, seal, sealing, verify
from pipeline.release.manifest import ReleaseManifest, authenticated, body_of, text_of
from pipeline.release.privacy import derive
from pipeline.release.signing import new_key, private_key, public_hex, public_key, signed
from tests.finished_job import SALT, everything, finished_job, people, published, refuse_seal, released, settings_of

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
"""Test 1 of RFC 8032, 7.1."""
PKCS8, SPKI = bytes.fromhex("302e020100300506032b657004220420"), bytes.fromhex("302a300506032b6570032100")
"""What stands before the 32 bytes of a private and a public key (RFC 8410)."""
ASSESSMENT = {"review_by": "2999-01-01", "expires": "2999-06-01"}


def pem(label: str, content: bytes) -> bytes:
    return f"-----BEGIN {label}-----\n{base64.b64encode(content).decode()}\n-----END {label}-----\n".encode()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys: mine, and a stranger's."""
    folder = tmp_path_factory.mktemp("keys")
    (folder / "mine").write_bytes(pem("PRIVATE KEY", PKCS8 + SEED))
    (folder / "mine.pub").write_bytes(pem("PUBLIC KEY", SPKI + bytes.fromhex(PUBLIC)))
    new_key(folder / "other")
    return folder


@pytest.fixture(scope="module")
def sound(keys: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A signed release; whoever changes it puts it right again."""
    return released(
        tmp_path_factory.mktemp("sound"), [people(6)], sign=str(keys / "mine"), assessment=ASSESSMENT
    )  # fmt: skip


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def test_keys_are_those_of_the_standard(keys: Path) -> None:
    key = private_key(str(keys / "mine"), "sign")
    assert public_hex(key.public_key()) == public_hex(public_key(str(keys / "mine.pub"), "--key")) == PUBLIC
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe"
        "24655141438e7a100b"
    )


def test_the_signature_covers_all_but_itself_and_the_digest(sound: Path, keys: Path) -> None:
    """With bytes that this test makes for itself."""
    content = json.loads((sound / "RELEASE.json").read_bytes())
    digest, signature = content.pop("digest"), content.pop("signature")
    message = b"doppel release\0" + json.dumps(content, sort_keys=True).encode()
    key = public_key(str(keys / "mine.pub"), "--key")
    key.verify(bytes.fromhex(signature), message)
    with pytest.raises(InvalidSignature):
        key.verify(bytes.fromhex(signature), message.removeprefix(b"doppel release\0"))
    assert content["signer"] == PUBLIC
    assert set(content["files"]) == {
        "README.md", "ASSESSMENT.md", "data/release-00000.tar", "data/release-00001.tar",
    }  # fmt: skip
    signed_body = json.dumps({**content, "signature": signature}, sort_keys=True).encode()
    assert hashlib.sha256(signed_body).hexdigest() == digest
    assert verify(sound, SALT, key) == []
    assert SEED.hex() not in everything(sound).hex()


def test_a_signature_for_something_else_is_none_of_a_release(sound: Path, keys: Path) -> None:
    key = private_key(str(keys / "mine"), "sign")
    manifest = ReleaseManifest.from_json((sound / "RELEASE.json").read_bytes(), "")
    other = key.sign(body_of(manifest, {"signature", "digest"})).hex()
    before = (sound / "RELEASE.json").read_text()
    try:
        (sound / "RELEASE.json").write_text(text_of(manifest.model_copy(update={"signature": other})))
        assert verify(sound, None, key.public_key()) == [
            "RELEASE.json is not authentic: its signature does not fit what it says"
        ]
    finally:
        (sound / "RELEASE.json").write_text(before)


def drop_signature(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"signature": ""})


def drop_signer(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"signature": "", "signer": ""})


def sign_for_himself(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    """A sound signature, by a key that the manifest itself names."""
    return signed(manifest.model_copy(update={"signer": public_hex(stranger.public_key())}), stranger)


def sign_in_my_name(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    signature = sign_for_himself(manifest, stranger).signature
    return manifest.model_copy(update={"signature": signature})


def with_counts(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"counts": manifest.counts.model_copy(update={"read": 7000})})


def without_a_file(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"files": {k: v for k, v in manifest.files.items() if k != "README.md"}})


def never_expiring(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"assessment": None})


def with_another_hmac(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return authenticated(manifest, derive(b"another secret of the tests"))


def zeros(manifest: ReleaseManifest, stranger: Ed25519PrivateKey) -> ReleaseManifest:
    return manifest.model_copy(update={"signature": "0" * 128})


FORGERIES: dict[Callable[[ReleaseManifest, Ed25519PrivateKey], ReleaseManifest], str] = {
    drop_signature: "is not signed",
    drop_signer: "is not signed",
    sign_for_himself: "names another key as its signer",
    sign_in_my_name: "signature does not fit",
    with_counts: "signature does not fit",
    without_a_file: "signature does not fit",
    never_expiring: "signature does not fit",
    with_another_hmac: "signature does not fit",
    zeros: "signature does not fit",
}


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_forger_with_a_key_of_his_own(forge: Any, copy: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """He computes all else anew, so that nobody could tell without the key."""
    manifest = ReleaseManifest.from_json((copy / "RELEASE.json").read_bytes(), "")
    forged = forge(manifest, private_key(str(keys / "other"), "sign"))
    (copy / "RELEASE.json").write_text(text_of(forged))
    if forge is without_a_file:
        (copy / "README.md").unlink()
    assert verify(copy) == []
    (problem,) = verify(copy, None, public_key(str(keys / "mine.pub"), "--key"))
    assert FORGERIES[forge] in problem
    assert main(["verify", str(copy), "--key", str(keys / "mine.pub")]) == 1
    assert "NOT SOUND" in capsys.readouterr().out


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_altered_byte_of_any_file_is_found(sound: Path, keys: Path, data: st.DataObject) -> None:
    files = sorted(path for path in sound.rglob("*") if path.is_file())
    assert len(files) == 5
    file, key = data.draw(st.sampled_from(files)), public_key(str(keys / "mine.pub"), "--key")
    before = file.read_bytes()
    at, flip = data.draw(st.integers(0, len(before) - 1)), data.draw(st.integers(1, 255))
    change = data.draw(st.sampled_from(["flip", "drop", "add"]))
    middle = {"flip": bytes([before[at] ^ flip]), "drop": b"", "add": bytes([before[at], flip])}[change]
    try:
        file.write_bytes(before[:at] + middle + before[at + 1 :])
        problems = verify(sound, None, key)
    finally:
        file.write_bytes(before)
    assert problems
    assert file.name in problems[0]


def case(copy: Path) -> None:
    (copy / "README.md").rename(copy / "readme.md")


def twin(copy: Path) -> None:
    shutil.copy(copy / "README.md", copy / "Readme.md")


def hidden(copy: Path) -> None:
    (copy / ".DS_Store").write_bytes(b"")


def another_tar(copy: Path) -> None:
    shutil.copy(copy / "data" / "release-00000.tar", copy / "data" / "release-00002.tar")


def folder(copy: Path) -> None:
    (copy / "data" / "release-00002.tar").mkdir()


def pipe(copy: Path) -> None:
    os.mkfifo(copy / "data" / "release-00002.tar")


def linked_seal(copy: Path) -> None:
    (copy / "RELEASE.json").rename(copy.parent / "elsewhere")
    (copy / "RELEASE.json").symlink_to(copy.parent / "elsewhere")


def piped_seal(copy: Path) -> None:
    (copy / "RELEASE.json").unlink()
    os.mkfifo(copy / "RELEASE.json")


def linked_data(copy: Path) -> None:
    (copy / "data").rename(copy.parent / "elsewhere")
    (copy / "data").symlink_to(copy.parent / "elsewhere")


def linked_tar(copy: Path) -> None:
    (copy / "data" / "release-00000.tar").rename(copy.parent / "elsewhere")
    (copy / "data" / "release-00000.tar").symlink_to(copy.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "sentences"),
    [
        (case, ["readme.md is not listed", "README.md is missing"]),
        (twin, ["Readme.md is not listed"]),
        (hidden, [".DS_Store is not listed"]),
        (another_tar, ["data/release-00002.tar is not listed"]),
        (folder, ["data/release-00002.tar is not listed"]),
        (pipe, ["data/release-00002.tar is not listed"]),
        (linked_seal, ["RELEASE.json is not a regular file"]),
        (piped_seal, ["RELEASE.json is not a regular file"]),
        (linked_tar, ["data/release-00000.tar is not a regular file"]),
        (
            linked_data,
            ["data is not a folder", "data/release-00000.tar is missing", "data/release-00001.tar is missing"],
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_extra_or_elsewhere(spoil: Any, sentences: list[str], copy: Path, keys: Path) -> None:
    spoil(copy)
    assert verify(copy, None, public_key(str(keys / "mine.pub"), "--key")) == sentences
    assert main(["verify", str(copy), "--key", str(keys / "mine.pub")]) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("name", ["data", "data/release-00000.tar", "RELEASE.json"])
def test_what_cannot_be_read_is_not_proven(name: str, copy: Path, keys: Path) -> None:
    mode = (copy / name).stat().st_mode
    (copy / name).chmod(0)
    try:
        (problem,) = verify(copy, None, public_key(str(keys / "mine.pub"), "--key"))
    finally:
        (copy / name).chmod(mode)
    assert "cannot be read" in problem


def test_an_error_of_the_disk_is_a_problem_of_the_release(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> str:
        raise OSError(5, "Input/output error", path)

    monkeypatch.setattr(sealing, "content_hash", fail)
    assert verify(copy)[0] == "ASSESSMENT.md cannot be read (Input/output error)"


def test_without_the_package_no_job_starts(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    config = settings_of(tmp_path, sign=str(keys / "mine"))
    with pytest.raises(UserError, match="the signature of a release needs the package cryptography, which comes with"):
        check_release(config, str(tmp_path / "job"), SALT)
    check_release(settings_of(tmp_path), str(tmp_path / "job"), SALT)


def bad_keys() -> dict[str, tuple[bytes, str]]:
    clear = (Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    mine = Ed25519PrivateKey.from_private_bytes(SEED)
    locked = mine.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    return {
        "empty": (b"", "found no PEM file"),
        "raw": (SEED, "found no PEM file"),
        "hexadecimal": (SEED.hex().encode(), "found no PEM file"),
        "encrypted": (locked, "found one that a password encrypts"),
        "RSA": (rsa.generate_private_key(65537, 2048).private_bytes(*clear), "found a private key of another kind"),
        "curve": (ec.generate_private_key(ec.SECP256R1()).private_bytes(*clear), "a private key of another kind"),
        "public": (
            mine.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "found a PEM file that holds a PUBLIC KEY",
        ),
        "short": (pem("PRIVATE KEY", PKCS8 + SEED[:31]), "found a PEM file that holds a PRIVATE KEY"),
        "torn": (pem("PRIVATE KEY", PKCS8 + SEED)[:60], "found a PEM file that holds a PRIVATE KEY"),
        "OpenSSH": (
            mine.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()),
            "found a PEM file that holds a OPENSSH PRIVATE KEY",
        ),
    }


@pytest.mark.parametrize("name", bad_keys())
def test_a_key_that_does_not_fit(name: str, tmp_path: Path) -> None:
    content, sentence = bad_keys()[name]
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(UserError, match=r"^release\.sign: an Ed25519 private key in PEM") as refused:
        check_release(settings_of(tmp_path, sign=str(tmp_path / "key")), str(tmp_path / "job"), SALT)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert SEED.hex() not in str(refused.value)
    with pytest.raises(UserError, match=r"^release\.sign"):
        released(tmp_path, [people(6)], sign=str(tmp_path / "key"))
    refuse_seal(tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda content: pem("PUBLIC KEY", content)))
def test_whatever_is_no_key_is_one_sentence(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "no-key"
    file.write_bytes(content)
    for load in (private_key, public_key):
        said = sentence_of(lambda load=load: load(str(file), "--key"))  # type: ignore[misc]
        assert said is None or re.fullmatch(r"--key: an Ed25519 (private|public) key in PEM .*, found [^\n]*", said)


def sentence_of(call: Callable[[], object]) -> str | None:
    try:
        call()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("place", ["nowhere", "."])
def test_a_key_that_cannot_be_read(place: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^release\.sign: cannot read"):
        check_release(settings_of(tmp_path, sign=str(tmp_path / place)), str(tmp_path / "job"), SALT)


def test_a_key_is_never_published(tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    new_key(tmp_path / "release" / "key")
    with pytest.raises(UserError, match=r"^release\.sign: the key lies in"):
        check_release(settings_of(tmp_path, sign=str(tmp_path / "release" / "key")), str(tmp_path / "job"), SALT)


def test_a_key_is_made_when_asked_for_and_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    previous = os.umask(0)
    try:
        assert main(["new-key", str(tmp_path / "key")]) == 0
    finally:
        os.umask(previous)
    said = capsys.readouterr().out
    key = private_key(str(tmp_path / "key"), "")
    assert public_hex(key.public_key()) == public_hex(public_key(str(tmp_path / "key.pub"), ""))
    assert public_hex(key.public_key()) in said
    assert key.private_bytes_raw().hex() not in said
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    before = (tmp_path / "key").read_bytes()
    (tmp_path / "second.pub").symlink_to("nowhere")
    for taken in ("key", "second"):
        assert main(["new-key", str(tmp_path / taken)]) == 2
        assert "a key is never overwritten" in capsys.readouterr().err
    assert (tmp_path / "key").read_bytes() == before
    assert not (tmp_path / "second").exists()


def test_the_same_key_gives_the_same_bytes_and_another_is_refused(sound: Path, keys: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"sign": str(keys / "mine"), "assessment": ASSESSMENT}
    again = released(tmp_path, [people(6)], **changes)
    assert everything(again) == everything(sound)
    job = tmp_path / "job"
    seal(again, published(settings_of(tmp_path, **changes), job, people(6)))
    for sign, sentence in ((str(keys / "other"), "by another key"), (None, "names no key")):
        with pytest.raises(UserError, match=sentence):
            published(settings_of(tmp_path, **changes | {"sign": sign}), job, people(6))
    assert everything(again) == everything(sound)


def test_an_unsigned_release_does_not_become_a_signed_one_in_silence(keys: Path, tmp_path: Path) -> None:
    release = released(tmp_path, [people(6)])
    with pytest.raises(UserError, match="signed by another key, or by none"):
        published(settings_of(tmp_path, sign=str(keys / "mine")), tmp_path / "job", people(6))
    assert verify(release) == []


def test_one_screen_says_what_was_proven_and_what_not(
    sound: Path, keys: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(sound), "--key", str(keys / "mine.pub")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines[1:])) <= 140
    said = "\n".join(lines)
    for words in (": sound", f"ok      signature: Ed25519, by the holder of the key given, {PUBLIC}", "proven:"):
        assert words in said
    for words in ("not proven:", "T2, an attacker who holds the very source photograph: NOT SOLVED", "not stated"):
        assert words in said


def test_other_ways_to_know_whose_it_is(sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stated = hashlib.sha256((sound / "RELEASE.json").read_bytes()).hexdigest()
    (tmp_path / "salt").write_bytes(SALT)
    (tmp_path / "false").write_bytes(b"another secret of the tests")
    for options, code in (
        (["--sha256", stated.upper()], 0), (["--sha256", "0" * 64], 1), (["--salt-file", str(tmp_path / "salt")], 0),
        (["--salt-file", str(tmp_path / "false")], 1), ([], 2), (["--sha256", "7"], 2), (["--key", "/nowhere"], 2),
    ):  # fmt: skip
        assert main(["verify", str(sound), *options]) == code, options
        said = capsys.readouterr()
        assert ("NOT SOUND" in said.out) == (code == 1)
        assert len(said.err.splitlines()) == (code == 2)


def test_names_of_files_do_not_steer_a_terminal(copy: Path, keys: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"\x1b[2J", b"a\nproven: all", b"\xff"):
        (copy / os.fsdecode(name)).write_bytes(b"")
    for number in range(10):
        (copy / f"more-{number}").write_bytes(b"")
    assert main(["verify", str(copy), "--key", str(keys / "mine.pub")]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert not any(line.startswith("proven") for line in said.splitlines())
    assert "and 8 more" in said


def test_a_strange_hmac_is_no_crash(copy: Path) -> None:
    content = json.loads((copy / "RELEASE.json").read_bytes())
    for change in ({"hmac": "ä"}, {"signer": "\u001b[2J"}, {"signature": "00"}, {"signer": 7}):
        (copy / "RELEASE.json").write_text(json.dumps({**content, **change}))
        assert verify(copy, SALT)
        assert "\x1b" not in verify(copy, SALT)[0]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a JSON value."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] * bool(path) + [found for key, value in inside for found in places(value, (*path, key))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), VALUES)
def test_whatever_stands_in_it_is_a_sentence_and_never_a_proof(
    sound: Path, keys: Path, data: st.DataObject, value: Any
) -> None:
    """A stranger writes RELEASE.json, and computes no digest."""
    before = (sound / "RELEASE.json").read_bytes()
    content = json.loads(before)
    *path, last = data.draw(st.sampled_from(places(content)))
    inner = content
    for key in path:
        inner = inner[key]
    unchanged = type(inner[last]) is type(value) and inner[last] == value
    inner[last] = value
    key = public_key(str(keys / "mine.pub"), "--key")
    try:
        (sound / "RELEASE.json").write_text(json.dumps(content))
        found = verify_release(sound, key=key, salt=SALT, today=date(2027, 1, 1))
    finally:
        (sound / "RELEASE.json").write_bytes(before)
    assert unchanged or found.problems
    assert all("\n" not in problem for problem in found.problems)


@pytest.mark.parametrize("text", ["[" * n + "]" * n for n in (100, 300, 900, 5000, 100_000)] + ['"\\ud800"', "NaN"])
def test_texts_that_no_release_says(text: str, copy: Path, keys: Path) -> None:
    content = json.loads((copy / "RELEASE.json").read_bytes())
    changed = json.dumps({**content, "facts": {"a": "HERE"}}).replace('"HERE"', text)
    (copy / "RELEASE.json").write_text(changed)
    assert verify(copy, SALT, public_key(str(keys / "mine.pub"), "--key"))


TODAY = date.today()


@pytest.mark.parametrize("name", ["review_by", "expires"])
def test_what_is_out_of_date_is_not_released(name: str, tmp_path: Path) -> None:
    finished_job(tmp_path / "job", [people(6)])
    for days, fits in ((-1, False), (0, True), (1, True)):
        config = settings_of(tmp_path, assessment={name: TODAY + timedelta(days)})
        if fits:
            check_release(config, str(tmp_path / "job"), SALT)
        else:
            with pytest.raises(
                UserError, match=rf"^release\.assessment\.{name} is [\d-]+, and today is [\d-]+: assess"
            ):
                check_release(config, str(tmp_path / "job"), SALT)
    refuse_seal(tmp_path)


def test_an_expired_assessment_fails_and_an_overdue_review_is_said(sound: Path, keys: Path) -> None:
    key = public_key(str(keys / "mine.pub"), "--key")
    fresh, overdue, expired = (
        verify_release(sound, key=key, today=date.fromisoformat(day))
        for day in ("2999-01-01", "2999-06-01", "2999-06-02")
    )
    assert fresh.problems == overdue.problems == []
    assert "OVERDUE" not in fresh.screen
    assert "OVERDUE" in overdue.screen
    assert expired.problems == ["the assessment holds no longer: it expired on 2999-06-01"]
