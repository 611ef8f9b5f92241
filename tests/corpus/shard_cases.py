"""Names of files that become those of shards, and so of outputs and records."""

from __future__ import annotations

import unicodedata

from tests.corpus.case import Bad, Case, members_of, sound
from tests.corpus.tars import named, raw


def shards(name: str, *files: str) -> Case:
    """Files whose names become those of shards."""
    keys = [f"k{number}" for number in range(len(files))]
    made = {file: raw(members_of(number, keys[number])) for number, file in enumerate(files)}
    return Case(f"shard {name}", named(made, "**/*"), tuple(sound(i, text) for i, text in enumerate(keys)))


CASES = (
    shards("called ...tar", "...tar", "b.tar"),
    shards("called ..tar", "..tar", "b.tar"),
    shards("called ....tar", "....tar", "b.tar"),
    shards("called as what a job is working on", "lock.tar", "quarantine.tar", "lock.folder.tar", "x.parts.tar"),
    shards("with blanks", " a b .tar", "b.tar"),
    shards("with percent signs", "%2E.tar", "%.tar", "100%.tar"),
    shards("in both forms of Unicode", unicodedata.normalize("NFC", "ü.tar"), unicodedata.normalize("NFD", "ü.tar")),
    shards("with a line break", "a\nb.tar", "b.tar"),
    shards("of 240 bytes", "n" * 236 + ".tar", "b.tar"),
    shards("of 240 bytes that differ at the end", "n" * 235 + "1.tar", "n" * 235 + "2.tar"),
    shards("of one stem in two folders", "x/a.tar", "y/a.tar"),
    shards("of one stem with two endings", "a.tar", "a.tar.gz", "a.tgz"),
    shards("in both cases", "A.tar", "a.tar"),
    shards("that Windows reserves", "CON.tar", "nul.tar"),
    shards("with glob characters", "[a].tar", "b.tar"),
    shards("with a query", "a?b.tar", "b#c.tar"),
    Case(
        "shard called quarantine, with samples for it",
        named({"quarantine.tar": raw([("bad.png", b"no"), *members_of(0)])}),
        (sound(0),),
        (Bad("bad", "undecodable", ""),),
    ),
    shards("called as our records", "job.json.tar", "manifest.json.tar"),
    shards("without ending", "tar", "shard-000"),
    shards("with a backslash", "a\\b.tar", "b.tar"),
    shards("that is no UTF-8", "\udcff.tar", "b.tar"),
)
