"""The table of the bound in docs/release.md, from scripts/evidence/anonymity.json."""

from __future__ import annotations

from typing import Any


def head() -> list[str]:
    return ["t_boom", "a face in", "PSNR", "T1, measured", "T2, measured", "T2, bound", "most isolated", "of two", "ε"]


def rows(bound: dict[str, Any], levels: dict[str, Any]) -> list[list[str]]:
    """A row for each level of the bound; what the part `levels` has measured there stands beside it."""
    return [[level, *measured(levels.get(level)), *provable(row)] for level, row in bound["levels"].items()]


def measured(row: dict[str, Any] | None) -> list[str]:
    """What is left of the faces, and the best of the attackers here under each threat model."""
    if row is None:
        return ["–"] * 4
    best = [max((f["share"], n) for n, f in row["rank_1"].items() if n.startswith(threat)) for threat in ("T1", "T2")]
    return [
        f"{100 * row['faces']['with_face']:.1f} %", f"{row['psnr']:.1f} dB",
        *(f"{100 * share:.1f} %, {name.partition(' ')[2]}" for share, name in best),
    ]  # fmt: skip


def provable(row: dict[str, Any]) -> list[str]:
    """What no attacker does better, and what it means for single people."""
    rank, alone = row["rank_1"], row["most_isolated"]
    return [
        f"{100 * rank['share']:.2f} % ({100 * rank['low']:.2f}–{100 * rank['high']:.2f})",
        f"{100 * alone['share']:.1f} %", f"{100 * row['of_two']:.1f} %", f"{row['epsilon']:.3g}",
    ]  # fmt: skip


def levels_for(bound: dict[str, Any]) -> str:
    """The levels that keep a bound, as a sentence."""
    found = [f"{float(share):.0%}: t_boom {level:.4f}" for share, level in bound["level_for"].items()]
    return f"Levels found for a bound of {'; '.join(found)}."
