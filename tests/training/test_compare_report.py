import copy
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console
from scipy.stats import ttest_rel

from training.compare.intervals import holm, paired
from training.compare.plots import accuracy_plot, calibration_plot, gain_per_class_plot
from training.compare.report import GAIN, LOSS, ONE_SEED, UNSHOWN, markdown, table, verdict, write_report

ARMS = {"real": 0.0, "flip_crop": 1.2, "repeated": 0.0, "boomerang": -1.0, "boomerang+best": 2.6}
"""Gain over `real` in points that the made-up runs are drawn with."""
BEST = "flip_crop"
CLASSES = ["shirt", "coat", "bag"]


def made_up(sizes: tuple[int, ...] = (500, 2000), seeds: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    runs = []
    for size in sizes:
        for seed in range(seeds):
            base = 75 + 5 * np.log10(size / 100) + rng.normal(0, 1, 3)
            for arm, gain in ARMS.items():
                per_class = (base + gain * np.array([0, 1, 2]) + rng.normal(0, 0.2)) / 100
                runs.append(
                    {
                        "arm": arm, "size": size, "seed": seed, "accuracy": float(per_class.mean()),
                        "per_class": per_class.tolist(), "ece": 0.05 + 0.01 * float(rng.random()), "seconds": 60.0,
                        "steps": 900, "epochs_seen": 900 * 64 / size, "failed": None,
                        "rejected": 0.125 if arm == "boomerang" else None,
                    }
                )  # fmt: skip
    return summarised(
        {
            "name": "made up", "split": "test", "machine": "two cores", "metric": "accuracy", "classes": CLASSES,
            "best_classical": {str(size): BEST for size in sizes}, "reference": "real", "arms": list(ARMS),
            "sizes": list(sizes), "seeds": list(range(seeds)), "runs": runs,
            "denoiser": {"trained on": "nothing"}, "notes": ["Read once."],
        }
    )  # fmt: skip


def summarised(results: dict[str, Any]) -> dict[str, Any]:
    """With the summary that `doppel compare` makes of such runs."""
    results["summary"] = {}
    for size in results["sizes"]:
        scores = {arm: by_seed(results, arm, size) for arm in results["arms"]}
        found: dict[str, Any] = {
            arm: {
                "mean": float(np.mean(list(own.values()))) if own else None,
                "std": float(np.std(list(own.values()), ddof=1)) if len(own) > 1 else None,
                "n": len(own), "seconds": 60.0, "against": {},
            }
            for arm, own in scores.items()
        }  # fmt: skip
        for key, other in (("real", "real"), ("best_classical", BEST)):
            both = {arm: sorted(own.keys() & scores[other].keys()) for arm, own in scores.items() if arm != other}
            tests = {a: paired([scores[a][s] - scores[other][s] for s in seeds]) for a, seeds in both.items() if seeds}
            for (arm, test), p in zip(tests.items(), holm([t.p for t in tests.values()]), strict=True):
                figures = {**vars(test), "p_holm": p}
                found[arm]["against"][key] = {k: None if v != v else v for k, v in figures.items()}
        results["summary"][str(size)] = found
    return results


def by_seed(results: dict[str, Any], arm: str, size: int | str, key: str = "accuracy") -> dict[int, Any]:
    runs = (r for r in results["runs"] if (r["arm"], r["size"]) == (arm, size) and not r["failed"])
    return {run["seed"]: run[key] for run in runs}


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    return made_up()


def rows(results: dict[str, Any], block: int = 0) -> dict[str, list[str]]:
    """Cells by arm of one size's table in the Markdown."""
    lines = markdown(results).split("\n\n")[2 + 2 * block].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert len({len(row) for row in cells}) == 1
    return {row[0]: row[1:] for row in cells if not row[0].startswith(":")}


def shown(results: dict[str, Any], width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(table(results))
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("mean", "p", "said"),
    [
        (0.01, 0.049, GAIN), (-0.01, 0.049, LOSS), (0.01, 0.05, UNSHOWN), (-0.01, 1.0, UNSHOWN),
        (0.01, None, ONE_SEED), (0.01, float("nan"), ONE_SEED),
    ],
)  # fmt: skip
def test_verdict(mean: float, p: float | None, said: str) -> None:
    assert verdict(mean, p) == said


def test_planted_gains_and_losses_are_said(results: dict[str, Any]) -> None:
    for block in (0, 1):
        found = rows(results, block)
        assert {arm: cells[3] for arm, cells in found.items() if arm != "arm"} == {
            "real": "", "flip_crop": GAIN, "repeated": UNSHOWN, "boomerang": LOSS, "boomerang+best": GAIN,
        }  # fmt: skip
        assert (found["boomerang"][6], found["flip_crop"][6], found["boomerang+best"][6]) == (LOSS, "", GAIN)


def test_cells_are_the_paired_test_in_points(results: dict[str, Any]) -> None:
    own, base = (list(by_seed(results, arm, 2000).values()) for arm in ("boomerang", "real"))
    reference = ttest_rel(own, base)
    low, high = reference.confidence_interval()
    accuracy, over, p, _, over_best, *_, seconds, remarks = rows(results, 1)["boomerang"]
    assert accuracy == f"{100 * np.mean(own):.1f} ± {100 * np.std(own, ddof=1):.1f}"
    numbers = [float(number) for number in re.findall(r"[+-][\d.]+", over.replace("−", "-"))]
    assert numbers == pytest.approx([100 * np.mean(np.subtract(own, base)), 100 * low, 100 * high], abs=0.006)
    adjusted = results["summary"]["2000"]["boomerang"]["against"]["real"]["p_holm"]
    assert adjusted > reference.pvalue
    assert p == (f"{adjusted:.3f}" if adjusted >= 0.001 else "< 0.001")
    assert over_best != over
    assert (seconds, remarks) == ("60", "12.5% filtered out")


def test_terminal_and_readme_say_the_same(results: dict[str, Any]) -> None:
    text = shown(results)
    assert text.count("500 labels") == 1
    assert text.index("500 labels") < text.index("2,000 labels")
    for block in (0, 1):
        for arm, (accuracy, over, p, said, over_best, p_best, said_best, *_) in rows(results, block).items():
            if arm == "arm":
                continue
            assert arm in text
            for cell in (accuracy, over, over_best):
                assert cell in text
            for number, word in ((p, said), (p_best, said_best)):
                assert not word or f"p {number}, {word}" in text
    assert max(map(len, shown(results, 120).splitlines())) <= 120
    assert "no difference shown" in shown(results, 120)  # on one line


def test_one_seed_has_no_interval() -> None:
    found = rows(made_up(seeds=1))
    accuracy, over, p, said, *_ = found["boomerang+best"]
    assert re.fullmatch(r"\d\d\.\d", accuracy)
    assert re.fullmatch(r"\+\d\.\d\d", over)
    assert (p, said) == ("", ONE_SEED)
    assert ONE_SEED in shown(made_up(seeds=1))


def panels(plot: Callable[..., Figure], *arguments: Any) -> list[Any]:
    return list(plot(*arguments).axes)


def failed(results: dict[str, Any], arm: str, seeds: int) -> dict[str, Any]:
    """The first seeds of an arm fail, as `doppel compare` notes them: without any figures."""
    changed = copy.deepcopy(results)
    for run in changed["runs"]:
        if run["arm"] == arm and run["seed"] < seeds:
            run["failed"] = "the loss is nan at step 7"
            for key in ("accuracy", "per_class", "ece", "rejected", "epochs_seen"):
                del run[key]
    return summarised(changed)


def test_failed_runs_are_marked_and_left_out(results: dict[str, Any]) -> None:
    some = failed(results, "boomerang", 2)
    assert rows(some)["boomerang"][-1] == "2 of 5 failed: the loss is nan at step 7; 12.5% filtered out"
    assert "2 of 5 failed" in shown(some)
    every = failed(results, "boomerang", 5)
    assert rows(every)["boomerang"] == [*"––", "", "", "–", "", "", "–", "5 of 5 failed: the loss is nan at step 7"]
    names = [label.get_text() for label in panels(gain_per_class_plot, every, 500)[0].get_yticklabels()]
    assert names == ["flip_crop", "repeated", "boomerang+best"]


def test_names_cannot_break_the_tables(results: dict[str, Any]) -> None:
    text = json.dumps(results).replace("boomerang+best", "[bold]a|b<b>")
    found = json.loads(text)
    assert r"[bold]a\|b<b>" in rows(found)
    assert "[bold]a|b<b>" in shown(found)


def test_bands_are_the_intervals_of_the_means(results: dict[str, Any]) -> None:
    left, right = panels(accuracy_plot, results)
    assert left.get_xscale() == "log"
    lines = {line.get_label(): line for line in left.get_lines()}
    assert list(lines) == list(ARMS)
    assert lines["real"].get_color() == "black"
    band = left.collections[list(ARMS).index("boomerang")].get_paths()[0].vertices
    for size, height in zip(*lines["boomerang"].get_data(), strict=True):
        expected = paired(list(by_seed(results, "boomerang", size).values()))
        assert height == pytest.approx(100 * expected.mean)
        edges = band[band[:, 0] == size][:, 1]
        assert (edges.min(), edges.max()) == pytest.approx((100 * expected.low, 100 * expected.high))
    gains = {line.get_label(): list(line.get_ydata()) for line in right.get_lines()}
    over = results["summary"]["500"]["boomerang"]["against"]["real"]
    assert gains["boomerang"][0] == pytest.approx(100 * over["mean"])
    edges = right.collections[2].get_paths()[0].vertices
    assert edges[edges[:, 0] == 500][:, 1].min() == pytest.approx(100 * over["low"])


def test_all_images_have_their_place_on_the_axis(results: dict[str, Any]) -> None:
    changed = json.loads(json.dumps(results).replace("2000", "60000"))
    for run in changed["runs"]:
        if run["size"] == 60000:
            run |= {"size": "all", "images": 60000}
    for key in ("summary", "best_classical"):
        changed[key]["all"] = changed[key].pop("60000")
    changed["sizes"] = [500, "all"]
    assert list(panels(accuracy_plot, changed)[0].get_lines()[0].get_xdata()) == [500, 60000]
    assert "**60,000 labels**" in markdown(changed)
    assert rows(changed, 1)["boomerang"][3] == LOSS


def test_one_size_has_bars_side_by_side() -> None:
    axes = panels(accuracy_plot, made_up(sizes=(500,)))[0]
    places = [bars[0].get_xdata()[0] for bars in axes.containers]
    assert len(set(places)) == len(ARMS)


def test_cells_of_classes(results: dict[str, Any]) -> None:
    changed = copy.deepcopy(results)
    for run in changed["runs"]:
        run["per_class"][1] = None  # a class that was not tested
    for found, tested in ((results, [0, 1, 2]), (changed, [0, 2])):
        axes = panels(gain_per_class_plot, found, 500)[0]
        arms = [label.get_text() for label in axes.get_yticklabels()]
        own, base = (list(by_seed(found, arm, 500, "per_class").values()) for arm in ("boomerang", "real"))
        cells = {t.get_position()[0]: t for t in axes.texts if t.get_position()[1] == arms.index("boomerang")}
        assert list(cells) == tested
        for j, text in cells.items():
            test = ttest_rel(*(np.array(x, dtype=float)[:, j] for x in (own, base)))
            mean = np.mean([a[j] - b[j] for a, b in zip(own, base, strict=True)])
            assert float(text.get_text().replace("−", "-")) == pytest.approx(100 * mean, abs=0.051)
            assert (text.get_fontweight() == "bold") == (test.pvalue < 0.05)
    assert {text.get_fontweight() for text in axes.texts} == {"bold", "normal"}


def test_calibration_bars(results: dict[str, Any]) -> None:
    bars = panels(calibration_plot, results)[0].containers[0]
    expected = [100 * np.mean(list(by_seed(results, arm, 500, "ece").values())) for arm in ARMS]
    assert list(bars[0].get_xdata()) == pytest.approx(expected)


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_report_is_complete_strict_and_loads_nothing(results: dict[str, Any], tmp_path: Path) -> None:
    changed = failed(results, "boomerang", 4)
    changed["notes"] = ["<script>alert(1)</script>"]
    changed["runs"][0]["ece"] = float("nan")
    changed["runs"][0]["failed"] = "x"
    write_report(changed, tmp_path / "out")
    pictures = ["accuracy.png", "calibration.png", "gain_2000.png", "gain_500.png"]
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == sorted([*pictures, "report.html", "results.json", "table.md"])
    for name in pictures:
        Image.open(tmp_path / "out" / name).verify()

    def refuse(constant: str) -> None:
        pytest.fail(constant)

    written = json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=refuse)
    assert written["runs"][0]["ece"] is None
    assert written["summary"] == changed["summary"]
    assert (tmp_path / "out" / "table.md").read_text() == markdown(changed)

    html = (tmp_path / "out" / "report.html").read_text()
    tags = Page(html).tags
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe"}
    assert [a["src"][:22] for tag, a in tags if tag == "img"] == ["data:image/png;base64,"] * 4  # type: ignore[index]
    assert sum(tag == "table" for tag, _ in tags) == 2
    assert {a.get("class") for tag, a in tags if tag == "td"} == {None, GAIN, LOSS}
    assert "://" not in html
    assert "made up, test split, 5 seeds" in html
