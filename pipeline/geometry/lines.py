"""YOLO's text: a line for each thing, its class and then numbers."""

from __future__ import annotations

from pipeline.geometry.moving import LOST, Mover, Unfollowed


def move_lines(content: bytes, kinds: set[str], mover: Mover) -> bytes:
    """The lines of a text member with their boxes (`CLASS N N N N`) or outlines (`CLASS X Y X Y X Y …`) moved.

    Lines of what lies outside of the window are left out. Raises `Unfollowed` for a line of another kind than those in
    `kinds`, which are `boxes` and `polygons`.
    """
    lines = list[str]()
    for number, line in enumerate(content.decode().splitlines(), 1):
        name, *written = line.split() or [""]
        if not written and not name:
            continue
        kind = "boxes" if len(written) == 4 else "polygons"
        if kind not in kinds:
            found = f"line {number} has {len(written)} numbers behind its class"
            raise Unfollowed(f"{found}: 4 make a box, more an outline, and only {', '.join(kinds)} are declared")
        try:
            values = [float(word) for word in written]
        except ValueError:
            raise Unfollowed(f"line {number}: a class and numbers are expected") from None
        moved = mover.box(values) if kind == "boxes" else mover.outlines(values)
        if moved is None:
            mover.tell(LOST)
        else:
            lines.append(" ".join([name, *(f"{value:.10g}" for value in moved)]))
    return "".join(f"{line}\n" for line in lines).encode()
