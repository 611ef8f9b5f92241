"""What the attacks on a release have found, in the words of its documents."""

from __future__ import annotations

from pipeline.release.manifest import ReleaseManifest

PROTOCOL = """The *motivated intruder* is a person who wants to find somebody in the release: competent, with the
internet, with software that anybody can download, and without crimes or inside knowledge (after the test of the UK
Information Commissioner's Office). doppel plays this intruder by a program:

1. The intruder holds every released image and, of everybody in the originals, other photographs (T1), or the very
   source photographs (T2).
2. For each released image, each recogniser ranks all people by likeness. The intruder has succeeded where the right
   person comes first.
3. The intruder also runs the operator on the photographs held, trains on the result, and tries to undo the operator.
4. Success is compared with guessing (*chance*), with 95 % intervals over people."""
"""The protocol of the test, as Markdown."""


def intruder(manifest: ReleaseManifest) -> str:
    """The protocol of the motivated intruder's test and its result, as Markdown."""
    return f"{PROTOCOL}\n\n{results(manifest)}"


def results(manifest: ReleaseManifest) -> str:
    """What the test has found, as Markdown."""
    return "**Result.** Not stated in this release: the figures stand in the publisher's private audit."


def statements(manifest: ReleaseManifest) -> list[str]:
    """The result of the test in a line or two of plain text."""
    return ["attacks: not stated in this release; the figures stand in the publisher's private audit"]
