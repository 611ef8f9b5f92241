"""Fresh neighbours while a training runs: another process makes them, a bounded store on disk holds them."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from PIL import Image
from pydantic import BaseModel

from pipeline.diffusion.model import Outline
from pipeline.errors import UserError
from pipeline.hooks.augment import GivenClassMap, read_class_map, read_operator, read_section
from pipeline.hooks.items import Key
from pipeline.hooks.live.filler import LOG, MakerProgress, MakerState, Setup, fill, known_labels
from pipeline.hooks.live.indexed import IndexedSource
from pipeline.hooks.live.slots import SlotReader, Slots
from pipeline.hooks.live.source import Arrays, FileSource, StreamSource, array_facts, check_arrays, save_arrays
from pipeline.hooks.neighbours import classes_of_labels
from pipeline.hooks.sources import Source
from pipeline.identity import PUBLIC_SALT, given_salt, hash_json, salt_check
from pipeline.job.classes import Classes, match
from pipeline.main_guard import check_main_guard
from pipeline.media.records import Sample
from pipeline.media.rules import PLAIN, PixelRules
from pipeline.models.config import ModelConfig
from pipeline.models.families import sketch_model
from pipeline.operators import Operator
from pipeline.operators.on_cascades import check
from pipeline.orphans import undisturbed
from pipeline.plain_json import read_json_file
from pipeline.posix import lock, unlock
from pipeline.section import local_option
from pipeline.source_code import code_hash
from pipeline.streams import AnyInput

IDENTITY, LOCK = "store.json", "lock"
"""The file that says what a store was made of, and the one that its writer locks."""
CONTEXT = multiprocessing.get_context("spawn")
"""How processes start: a fork would inherit what the training has loaded, and no GPU works in it."""
PATIENCE = 10.0
"""Seconds that a maker has to end when it is told to."""
GRACE = 10.0
"""Seconds for which a training goes on with what is there after its maker has crashed, unless it is told to go on."""
OnFailure = Literal["raise", "originals"]
"""What becomes of a training whose maker has crashed: an error, or original images in place of new neighbours."""
PLACES = {"path", "revision", "local_files_only"}
"""Fields of a model's configuration that say where it lies, and not what it is."""

log = logging.getLogger("doppel")


@dataclass(frozen=True, kw_only=True)
class Status:
    """The state of the maker, and counts of the store over all trainings that have used it."""

    state: MakerState
    """What the maker does; `waiting` means that enough is there until more has been read."""
    error: str | None
    """Why it crashed; else None."""
    pid: int
    """Process id of the maker."""
    made: int
    """Neighbours that were made."""
    refused: int
    """Samples that can't be used (counted once for each start), and outputs that were not finite."""
    passes: int
    """How often the maker has gone through the data, which is the number of the copy that it makes now."""
    read: int
    """Neighbours that were read."""
    again: int
    """How many of the `read` had been read `uses` times before; it grows where the maker does not keep up."""
    missing: int
    """How often no neighbour was there, and the original was used."""


class LiveStore:
    """A `Store` that another process fills. Any number of processes may read it, and none waits.

    It reaches DataLoader workers by pickling or fork. Counts are exact for one reading thread in each process.
    """

    def __init__(self, slots: Slots, on_failure: OnFailure = "raise", knows_contents: bool = False) -> None:
        self._slots, self._on_failure = slots, on_failure
        self.knows_contents = knows_contents
        """Whether its keys are the contents of images, see `IndexedSource`."""
        self._reader: SlotReader | None = None
        self._process = 0

    def __reduce__(self) -> tuple[type[LiveStore], tuple[Slots, OnFailure, bool]]:
        return LiveStore, (self._slots, self._on_failure, self.knows_contents)

    def source(self, key: str) -> Source | None:
        """The source of a key that is its content."""
        return Source(content=key, label=None) if self.knows_contents else None

    def keys_of(self, content: str) -> tuple[str, ...]:
        """The key of that content, whether it is there or not."""
        return (content,) if self.knows_contents else ()

    def copies(self, key: str) -> int:
        """Always 1: only `get` finds out which neighbours of a key are there."""
        return 1

    def get(self, key: str, copy: int = 0) -> Image.Image | None:
        """The least read neighbour of `key`, whatever `copy` is; None where there is none. RGB, in the model's size.

        Raises `UserError` where the maker crashed `GRACE` seconds ago, unless `on_failure` is `originals`.
        """
        if self._reader is None or self._process != os.getpid():  # a fork must not count in its parent's place
            self._reader, self._process = SlotReader(self._slots), os.getpid()
            self._maker = MakerProgress(self._slots.folder, "r")
        self._check_maker()
        found = self._reader.get(key)
        return None if found is None else Image.fromarray(found.pixels)

    def _check_maker(self) -> None:
        if self._on_failure == "originals" or self._maker.state != "crashed":
            return
        if time.time() > self._maker["ended"] + GRACE:
            last = (self._slots.folder / LOG).read_text().strip().splitlines()[-1]
            raise UserError(
                f"the maker of neighbours is gone: {last}; on_failure='originals' would go on without new ones"
            )

    def status(self) -> Status:
        """The state of the maker and the counts, at this moment."""
        folder = self._slots.folder
        progress, counts = MakerProgress(folder, "r"), self._slots.counts()
        numbers = {name: progress[name] for name in ("pid", "made", "refused", "passes")}
        error = (folder / LOG).read_text().strip() if progress.state == "crashed" else None
        return Status(state=progress.state, error=error, **numbers, **counts._asdict())


class BackgroundAugmenter:
    """`with BackgroundAugmenter(...) as store:` runs a process that makes neighbours of `data` until the block ends.

    - `operator`: an `Operator`, or the section `operator:` of a recipe. Its `copies` does not count: the maker makes
      copy after copy, each with the pixels that it has in an offline job.
    - `model`: the section `model:` of a recipe, with a number as its batch_size, or the model's path.
    - `data`: what the training reads, and no more, because neighbours that nobody reads keep their places in the store:
      a data set of torchvision or Hugging Face, or any with `len` and `[i]`, without transforms; a section `input:` of
      a recipe; or `InMemory(keys=, pixels=, labels=)`. `key` is for a data set what it is for `AugmentedDataset`.
    - `class_map`: what the classes of the data are for a model with classes, as in `GenerativeAugment`; a data set that
      names its classes needs none.
    - `capacity`: the largest number of neighbours on disk, uint8 in the model's size; best a little more than there are
      images.
    - `uses`: how often a neighbour is to be read before it may be overwritten.
    - `device`, `threads`: what the maker computes on; on a CPU it runs at low priority.
    - `image`: how images of a stream are read and brought to the model's size, as in a recipe's section `image:`.
    - `salt_file`: as `run.salt_file` in a recipe; else `$DOPPEL_SALT`, else a public constant.
    - `on_failure`: with `raise`, a training whose maker has crashed ends with its error, some seconds later; with
      `originals` it goes on with the neighbours that are there, and without new ones.

    A folder may be used again with the same configuration, and its files stay. On entry, `UserError` is raised for
    everything that can be known to be wrong, a script without a main guard among it. What goes wrong later is logged
    once and told by `store.status()`.
    """

    def __init__(
        self, operator: Operator | Mapping[str, Any], model: ModelConfig | str, data: Any,
        folder: str | Path, *, capacity: int, uses: int = 1, device: str = "cpu", threads: int = 1,
        image: PixelRules = PLAIN, salt_file: str | None = None, on_failure: OnFailure = "raise",
        class_map: GivenClassMap = None, key: Key = None,
    ) -> None:  # fmt: skip
        """Raises `UserError` where `capacity`, `uses` or `threads` is below 1, or another argument is not valid."""
        if on_failure not in get_args(OnFailure):
            raise UserError(f"on_failure is {on_failure!r}; raise and originals are allowed")
        for name, number in (("capacity", capacity), ("uses", uses), ("threads", threads)):
            if number < 1:
                raise UserError(f"{name} is {number}; at least 1 is needed")
        self._operator = operator if isinstance(operator, Operator) else read_operator(operator)
        self._model = ModelConfig(path=model) if isinstance(model, str) else model
        self._class_map = read_class_map(class_map)
        self._data, self._key = read_data(data), key
        self._folder, self._image = local_option(folder, "folder"), image
        if key is not None and (isinstance(self._data, BaseModel) or is_arrays(self._data)):
            raise UserError("key is for data sets; a section input and InMemory have keys of their own")
        self._capacity, self._uses = capacity, uses
        self._device, self._threads, self._salt_file = device, threads, salt_file
        self._on_failure = on_failure
        self._running = ExitStack()

    def __enter__(self) -> LiveStore:
        if CONTEXT.get_start_method() != "fork":
            check_main_guard(type(self).__name__)
        outline = self._checked()
        salt = given_salt(self._salt_file, "salt_file") or PUBLIC_SALT
        slots = Slots(folder=self._folder, size=outline.size, capacity=self._capacity, uses=self._uses)
        classes = self._classes(outline)
        source, facts = self._source(outline, classes)
        identity = {
            "operator": hash_json(self._operator.model_dump(mode="json", exclude={"copies"})),
            "model": hash_json([outline.hash, self._model.model_dump(mode="json", exclude=PLACES)]),
            "data": hash_json(facts),
            "capacity": str(slots.slots),
            "salt": salt_check(salt),
            "code": code_hash("pipeline.hooks.live.filler"),
        }
        setup = Setup(
            slots=slots, source=source, model=self._model, operator=self._operator, classes=classes, salt=salt,
            device=self._device, threads=self._threads,
        )  # fmt: skip
        with ExitStack() as stack:
            stack.enter_context(held(self._folder))
            if claim(self._folder, identity):
                create(slots, self._data if isinstance(source, FileSource) else None, identity)
            stack.enter_context(maker(setup))
            self._running = stack.pop_all()
        return LiveStore(slots, self._on_failure, isinstance(source, IndexedSource) and source.by_content)

    def __exit__(self, *error: object) -> None:
        self._running.close()

    def _checked(self) -> Outline:
        """Raises `UserError` for what does not fit together; no weights are loaded."""
        check_device(self._device)
        outline = sketch_model(self._model)
        self._operator.require_level()
        check(self._operator, outline, None)
        if self._model.batch_size == "auto":
            raise UserError("model.batch_size is auto; in the background a number is needed")
        if not self._operator.stochastic:
            raise UserError(f"operator {self._operator.name} makes one neighbour of an image: run it offline, once")
        captions = outline.conditioning == "text" and {"own", "edited"} & {*self._operator.conditions_used()}
        if needed := [*self._operator.needs, *(["captions"] if captions else [])]:
            what = ", ".join(sorted(needed))
            raise UserError(f"operator {self._operator.name} needs {what}: run it offline, and train on its store")
        return outline

    def _source(self, outline: Outline, classes: Classes) -> tuple[StreamSource | FileSource | IndexedSource, Any]:
        """With JSON that differs where the data do."""
        if isinstance(self._data, BaseModel):
            stream = StreamSource(
                input=cast(AnyInput, self._data), size=outline.size, rules=self._image, classes=classes
            )
            return stream, [stream.facts(), classes.shown]
        if not is_arrays(self._data):
            indexed = self._indexed(outline)
            return indexed, [indexed.facts(), classes.shown]
        check_arrays(self._data, outline.size, known_labels(self._operator, outline), classes)
        return FileSource(folder=self._folder), [array_facts(self._data), classes.shown]

    def _indexed(self, outline: Outline) -> IndexedSource:
        if self._image.fit != "resize":
            raise UserError(
                f"image.fit is {self._image.fit}: neighbours take the place of the images of data, and must show "
                "them whole, without margins; resize is allowed"
            )
        return IndexedSource(data=self._data, key=self._key, size=outline.size, rules=self._image)

    def _classes(self, outline: Outline) -> Classes:
        """What the classes of the data are for the model."""
        if not isinstance(self._data, BaseModel) and not is_arrays(self._data):
            names = None if self._class_map == "numbers" else self._indexed(outline).class_names()
            return classes_of_labels(self._operator, outline, self._class_map, names)
        if not isinstance(self._data, BaseModel):
            return classes_of_labels(self._operator, outline, self._class_map)
        stream = cast(AnyInput, self._data).open()
        known = known_labels(self._operator, outline)
        if self._class_map != "numbers" and stream.label_names is None and known is not None:
            first = next((item for shard in stream.shards for item in shard.read() if isinstance(item, Sample)), None)
            if first is not None and first.label is None:  # a text, perhaps, in the model's own names
                return match(self._class_map, None, outline.class_names, outline.classes or 0, option="class_map")
        return classes_of_labels(self._operator, outline, self._class_map, stream.label_names)


def read_data(data: Any) -> Any:
    """What neighbours are made of: a section `input:` as `AnyInput`, and all else as it is.

    Raises `UserError` for what is neither that, nor arrays, nor a data set with `len` and `[i]`.
    """
    if isinstance(data, Mapping) and "format" in data:
        return read_section(AnyInput, data, "data")
    if isinstance(data, BaseModel) or is_arrays(data):
        return data
    if isinstance(data, Mapping) or not (hasattr(data, "__len__") and hasattr(data, "__getitem__")):
        found = f"several data sets ({', '.join(map(str, data))})" if isinstance(data, Mapping) else type(data).__name__
        raise UserError(f"data is {found}; a data set with len and [i], a section input or InMemory is expected")
    return data


def is_arrays(data: Any) -> bool:
    """Whether data has the fields of `Arrays`."""
    return all(hasattr(data, name) for name in ("keys", "pixels", "labels"))


def check_device(name: str) -> None:
    """Raises `UserError` for a device that is not there. It touches no GPU, whose memory is for the maker alone."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device: {name!r} is unknown ({str(error).splitlines()[0]})") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device: {name!r} is not available here; there are {torch.cuda.device_count()} CUDA devices")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Holds the folder against other makers.

    Raises `UserError` where one holds it already, or it is not a store's folder.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / LOCK).exists():
        raise UserError(f"{folder} is not empty and holds no store of neighbours; name an empty folder")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w") as held:
        if not lock(held):
            raise UserError(f"{folder}: another BackgroundAugmenter is writing to this store")
        try:
            yield
        finally:
            unlock(held)  # workers that were forked meanwhile have it, too, and may live longer


def claim(folder: Path, identity: Mapping[str, str]) -> bool:
    """Whether the folder still needs a store. Raises `UserError` where it has one of another configuration."""
    file = folder / IDENTITY
    if not file.exists():
        return True
    before = read_json_file(file)
    if changed := [part for part in identity if before.get(part) != identity[part]]:
        what = ", ".join(changed)
        raise UserError(f"{folder}: store from another configuration ({what} changed); name another folder")
    return False


def create(slots: Slots, arrays: Arrays | None, identity: Mapping[str, str]) -> None:
    """Makes the files of a new store; the one with its identity comes last, and without it nothing counts."""
    slots.create()
    MakerProgress(slots.folder, "w+")
    if arrays is not None:
        save_arrays(arrays, slots.folder)
    part = slots.folder / f".{IDENTITY}.part"
    part.write_text(json.dumps(identity, indent=1) + "\n")
    part.replace(slots.folder / IDENTITY)  # the last: without it nothing counts


@contextmanager
def maker(setup: Setup) -> Iterator[None]:
    """Runs a process that fills the store, and ends it with the block, however that ends."""
    folder = setup.slots.folder
    progress = MakerProgress(folder, "r+")
    progress.state = "starting"
    progress["passes"] += progress["made"] > 0  # the pass that was interrupted is not repeated: copies are fresh
    (folder / LOG).unlink(missing_ok=True)
    process = CONTEXT.Process(target=fill, args=(setup,), daemon=True)
    with undisturbed():
        process.start()
    progress["pid"] = process.pid or 0
    told_to_end = threading.Event()
    watch = threading.Thread(target=_report, args=(process, folder, progress, told_to_end), daemon=True)
    watch.start()
    try:
        yield
    finally:
        told_to_end.set()
        process.terminate()  # a store is sound at any moment, so the maker needs no time to tidy up
        watch.join(PATIENCE)  # it alone waits for the process: of two that do, one would not get the exit code
        if watch.is_alive():
            process.kill()
            watch.join()


def _report(process: BaseProcess, folder: Path, progress: MakerProgress, told_to_end: threading.Event) -> None:
    """Waits until the maker has ended, and says so where nobody told it to."""
    wait([process.sentinel])
    process.join()
    code = process.exitcode or 0
    if told_to_end.is_set() and code in (-signal.SIGTERM, -signal.SIGKILL):
        progress.state = "stopped"
        return
    if not (folder / LOG).exists():
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        (folder / LOG).write_text(f"its process ended ({how})")
    progress["ended"] = int(time.time())
    progress.state = "crashed"
    log.warning("the maker of neighbours is gone, and makes no new ones: %s", (folder / LOG).read_text().strip())
