"""Stored views: for each epoch and batch what a student is to see of which images, and a teacher's logits on it.

On disk they are a folder beside the images, `views/`: `index.json`, and safetensors files (`00000.safetensors` begins
with epoch 0), each of some epochs e of N images in B batches and C classes:

    order    int32   (e, N)     which image is seen at each place of the epoch, batch after batch
    boxes    int16   (e, N, 4)  top, left, height and width of its crop, pixels
    flips    bool    (e, N)     whether that is mirrored
    partners int32   (e, N)     the place, in the same batch, of what it is mixed with; only where batches are mixed
    shares   float64 (e, B)     the image's own share in the mix; likewise
    pasted   int16   (e, B, 4)  top, left, bottom, right of what is pasted (CutMix); likewise
    logits   float16 (e, N, C)  of the finished view

The index says what holds for all of them, the sha256 of every file, and that of the images.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ddrank import atomic
from ddrank.augment.mix import Mix
from ddrank.augment.replay import Drawn, Frame
from ddrank.data.readers import sha256_of
from ddrank.data.samples import Samples
from ddrank.errors import InputError
from ddrank.ranks.team import ALONE, Team

FOLDER, INDEX, SCHEMA = "views", "index.json", "ddrank/views/1"
MIXES = ("none", "mixup", "cutmix")
_SHARD_BYTES = 1 << 26


@dataclass(frozen=True)
class LabelledBatch:
    """One batch of n stored views: of the images `index` int64 (n,), as `drawn`, with `logits` float16 (n, classes)."""

    index: Tensor
    drawn: Drawn
    logits: Tensor


@dataclass(frozen=True)
class StoredViews:
    """The stored views in a folder. Epochs are read when they are asked for.

    Attributes:
        folder: where they lie.
        sha256: of the index, which holds those of all files.
        epochs: how many are stored; students that are trained for longer see them again.
        sizes: of the batches of an epoch.
        num_classes: of the logits.
        mix: one of MIXES.
        frame: what becomes of the boxes.
        images: sha256 of the images that they are views of (see `images_digest`).
        about: what else is known of them (`aug`, `teachers`, `seed`, ...).
        shards: the files by their first epoch.
    """

    folder: Path
    sha256: str
    epochs: int
    sizes: tuple[int, ...]
    num_classes: int
    mix: str
    frame: Frame
    images: str
    about: dict[str, Any]
    shards: tuple[tuple[int, str], ...]

    @property
    def count(self) -> int:
        """Views in an epoch."""
        return sum(self.sizes)

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum((self.folder / name).stat().st_size for _, name in self.shards)

    def epoch(self, number: int) -> list[LabelledBatch]:
        """The batches of an epoch, counted from 0; after the last stored one, the first comes again."""
        from safetensors import safe_open

        number %= self.epochs
        first, name = next(shard for shard in reversed(self.shards) if shard[0] <= number)
        with safe_open(self.folder / name, framework="pt") as file:
            tensors = {key: file.get_slice(key)[number - first] for key in file.keys()}  # noqa: SIM118
        parts = {key: tensors[key].split(self.sizes) for key in ("order", "boxes", "flips", "logits")}
        return [
            LabelledBatch(
                parts["order"][batch].long(),
                Drawn(parts["boxes"][batch].long(), parts["flips"][batch], self._mix(tensors, batch)),
                parts["logits"][batch],
            )
            for batch in range(len(self.sizes))
        ]

    def _mix(self, tensors: dict[str, Tensor], batch: int) -> Mix | None:
        if self.mix == "none":
            return None
        box = tuple(tensors["pasted"][batch].tolist()) if self.mix == "cutmix" else None
        partners = tensors["partners"].split(self.sizes)[batch].long()
        return Mix(partners, tensors["shares"][batch].item(), box)


class ViewBatches:
    """The training batches of samples with stored views, epoch after epoch, as dicts: `image`, as it was seen, `label`,
    `view_label` (n, classes) logits and, of mixed batches, `partner` and `lam`. Replayed where the images lie. A rank
    of a `team` gets its part of every batch, with its `weight` and, of mixed ones, `partner_label`."""

    def __init__(self, samples: Samples, pin: bool = False, team: Team = ALONE):
        self._samples, self._pin, self._team = samples, pin, team
        self._begun = self._done = 0  # passes, and batches of the next one that are not wanted

    def __len__(self) -> int:
        return len(self._samples.views.sizes)

    @property
    def sizes(self) -> dict[int, int]:
        """How many batches of which size an epoch has."""
        return dict(Counter(len(self._team.part(torch.arange(size))) for size in self._samples.views.sizes))

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        done, self._done = self._done, 0
        self._begun += 1
        yield from [None] * done
        for stored in self._samples.views.epoch(self._begun - 1)[done:]:
            yield self._seen(stored) if self._team.ranks == 1 else self._part_seen(stored)

    def state(self) -> dict[str, int]:
        """What fixes the batches of the pass that has begun."""
        return {"begun": self._begun}

    def resume(self, state: dict[str, int], done: int) -> None:
        """Have the next pass be that of `state`, with None for the first `done` of its batches."""
        self._begun, self._done = state["begun"] - 1, done

    def _seen(self, stored: LabelledBatch) -> dict[str, Any]:
        samples, mix = self._samples, stored.drawn.mix
        device = samples.images.device
        index = stored.index.to(device, non_blocking=True)
        tensors = {
            "image": samples.views.frame.view(samples.floats(index), stored.drawn),
            "label": samples.labels[index],
            "view_label": stored.logits.to(device, non_blocking=True).float(),
        }
        if mix is not None:
            tensors["partner"] = mix.partner.to(device, non_blocking=True)
        if self._pin:
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return tensors if mix is None else tensors | {"lam": mix.share}

    def _part_seen(self, stored: LabelledBatch) -> dict[str, Any]:
        """This rank's part of a batch: seen with its partners after it, which are then left out."""
        whole, drawn, mix = len(stored.index), stored.drawn, stored.drawn.mix
        own = self._team.part(torch.arange(whole))
        count, places = len(own), own
        if mix is not None:
            places = torch.cat([own, mix.partner[own]])
            mix = replace(mix, partner=torch.arange(2 * count).roll(count))
        drawn = Drawn(drawn.boxes[places], drawn.flips[places], mix)
        batch = self._seen(LabelledBatch(stored.index[places], drawn, stored.logits[places]))
        partners = {} if mix is None else {"partner_label": batch["label"][count:]}
        for name in ("image", "label", "view_label", *(["partner"] if partners else [])):
            batch[name] = batch[name][:count]
        return batch | partners | {"weight": self._team.weight(count, whole)}

    def __enter__(self) -> ViewBatches:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


def images_digest(images: Tensor) -> str:
    """sha256 of images (N, C, H, W), float32."""
    digest = hashlib.sha256(repr(tuple(images.shape)).encode())
    digest.update(images.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def write_views(
    beside: Path | str,
    epochs: Iterable[Sequence[LabelledBatch]],
    *,
    count: int,
    frame: Frame,
    images: str,
    about: dict[str, Any],
) -> Path:
    """Write `count` epochs as the folder `views` in the folder `beside`, whole or not at all. Returns its path.

    What lies there already is replaced once all is written. Nobody else may be writing there: what killed writers have
    left is removed.
    """
    target = Path(beside) / FOLDER
    temporary, new = None, not target.parent.exists()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for left in target.parent.glob(f".{FOLDER}-*"):
            shutil.rmtree(left)
        temporary = Path(tempfile.mkdtemp(prefix=f".{FOLDER}-", dir=target.parent))
        index = _write_shards(temporary, epochs, count)
        index |= {"schema": SCHEMA, "epochs": count, "frame": asdict(frame), "images": images, "about": about}
        atomic.write_bytes(temporary / INDEX, json.dumps(index, indent=1, sort_keys=True).encode())
        temporary.chmod(target.parent.stat().st_mode & 0o777)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise InputError(
            f"{target} could not be written ({error.strerror or error}): make room, or choose a writable place"
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
            if new:
                with contextlib.suppress(OSError):  # there is something else in it
                    target.parent.rmdir()
    return target


def read_views(folder: Path | str) -> StoredViews:
    """The stored views in `folder`, their files checked against the index. Raises InputError when they are missing or
    damaged."""
    folder = Path(folder).resolve()
    if not (folder / INDEX).is_file():
        raise InputError(
            f"{folder} holds no stored views (no {INDEX}): make them with `python -m ddrank.distill relabel`"
        )
    content = (folder / INDEX).read_bytes()
    try:
        index = json.loads(content)
        shards = tuple((int(name.partition(".")[0]), name) for name in sorted(index["shards"]))
        frame = index["frame"]
        views = StoredViews(
            folder=folder,
            sha256=hashlib.sha256(content).hexdigest(),
            epochs=index["epochs"],
            sizes=tuple(index["sizes"]),
            num_classes=index["classes"],
            mix=index["mix"],
            frame=Frame(tuple(frame["size"]), frame["resized"], frame["antialias"], tuple(frame["fill"])),
            images=index["images"],
            about=index["about"],
            shards=shards,
        )
        sound = index["schema"] == SCHEMA and views.mix in MIXES and shards[0][0] == 0 < views.epochs
        sound = sound and all(Path(name).name == name for _, name in shards)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{folder / INDEX} is no index of stored views ({error}): make them again") from error
    if not sound:
        raise InputError(f"{folder / INDEX} is no index of {SCHEMA}: make the views again")
    for _, name in shards:
        if not (folder / name).is_file() or sha256_of(folder / name) != index["shards"][name]:
            raise InputError(f"{folder / name} is missing or not as it was written: make the views again")
    return views


def _write_shards(folder: Path, epochs: Iterable[Sequence[LabelledBatch]], count: int) -> dict[str, Any]:
    """Write the files of `epochs`; what the index says of them."""
    from safetensors.torch import save

    shards: dict[str, str] = {}
    waiting: list[dict[str, Tensor]] = []
    sizes, mix, classes, first = (), MIXES[0], 0, 0
    for number, batches in enumerate(epochs):
        tensors = _packed(batches)
        waiting.append(tensors)
        if not number:
            sizes, classes = tuple(len(batch.index) for batch in batches), batches[0].logits.shape[1]
            mix = _mix_of(batches)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if number + 1 == count or len(waiting) * size >= _SHARD_BYTES:
            content = save({key: torch.stack([epoch[key] for epoch in waiting]) for key in tensors})
            name = f"{first:05d}.safetensors"
            atomic.write_bytes(folder / name, content)
            shards[name] = hashlib.sha256(content).hexdigest()
            first, waiting = number + 1, []
    return {"shards": shards, "sizes": sizes, "mix": mix, "classes": classes}


def _packed(batches: Sequence[LabelledBatch]) -> dict[str, Tensor]:
    """The tensors of one epoch, as they are stored."""
    drawn = [batch.drawn for batch in batches]
    tensors = {
        "order": torch.cat([batch.index for batch in batches]).to(torch.int32),
        "boxes": torch.cat([each.boxes for each in drawn]).to(torch.int16),
        "flips": torch.cat([each.flips for each in drawn]),
        "logits": torch.cat([batch.logits for batch in batches]).to(torch.float16),
    }
    kind = _mix_of(batches)
    if kind != "none":
        tensors["partners"] = torch.cat([each.mix.partner for each in drawn]).to(torch.int32)
        tensors["shares"] = torch.tensor([each.mix.share for each in drawn], dtype=torch.float64)
    if kind == "cutmix":
        tensors["pasted"] = torch.tensor([each.mix.box for each in drawn], dtype=torch.int16)
    if not bool(tensors["logits"].isfinite().all()):
        raise InputError("the logits of a view reach beyond half precision (65504): the teacher is no sound network")
    return tensors


def _mix_of(batches: Sequence[LabelledBatch]) -> str:
    mix = batches[0].drawn.mix
    return "none" if mix is None else "mixup" if mix.box is None else "cutmix"
