"""One evaluation: from a composed config to a result, its files and its table."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from ddrank import build, doctor, engine, pictures
from ddrank.arms import Arm, arms
from ddrank.augment import CutMix, MixUp
from ddrank.data import DistilledDataset, RealDataset, Space, fit_space, load_real
from ddrank.data.distilled import distilled_from
from ddrank.data.readers import Found, look
from ddrank.data.real import check_ipc
from ddrank.data.stored_views import FOLDER, StoredViews, images_digest, read_views
from ddrank.distill.make import make_if_embedded
from ddrank.errors import InputError, UntrustedError
from ddrank.fit import Outcome
from ddrank.measure import Fit, Measurer
from ddrank.models import build as build_model
from ddrank.progress import Display
from ddrank.result import Arm as ArmResult
from ddrank.result import Result
from ddrank.store import Store
from ddrank.teacher import TeacherRoom, Teachers
from ddrank.wording import counted

RESULT_FILE = "result.json"


def evaluate(config: DictConfig, folder: Path, since: float | None = None) -> tuple[Result, Measurer]:
    """Measure all arms that `config` (checked) names; write result.json, pictures and curves into `folder`.

    `since` is when the work began, seconds since 1970 (default: now). Raises InputError, before any training, for
    whatever cannot be evaluated.
    """
    started = time.time()
    machine = engine.start(config.engine)
    check_parts(config)
    store = Store(config.paths.store)
    logger = build.build(config.logger, "logger")
    with Display() as display:
        if not config.dataset.embedded:
            found = find_distilled(config)  # what is missing there is said before anything large is read
            load_distilled(config, found)
        real = load_real(config.dataset, config.paths.data)
        check_enough(config, real)
        make_if_embedded(config, real, machine, Store(store.root), display)  # what it uses, the result does not rest on
        distilled = load_distilled(config, find_distilled(config) if config.dataset.embedded else found, real)
        views = looked_through(distilled, config, display)
        space, plain_space = spaces(config, distilled, real, store)
        distilled = distilled.placed(space)
        refuse_impossible(config, distilled, real)
        check_teachers(config, distilled)
        room = TeacherRoom(config, real, store, machine, display)
        teachers = room.teachers(space) if config.method.labels != "hard" else None
        all_arms = arms_to_measure(config, real, distilled, (space, plain_space), teachers, views, display)
        measurer = Measurer(config, real, store, machine, display, machine.crew())
        seeds = [config.seed + offset for offset in range(config.num_eval)]
        logger.start(config, folder)
        fits = measurer.measure(all_arms, seeds, finished=lambda name, of_arm: logger.arm(of_arm))
        display.say(f"trained {counted(measurer.trained, 'student')}; {measurer.found} came from the store")
    seconds = {"total": time.time() - started, **_spans(measurer.outcomes, started if since is None else since)}
    result = _result(config, seeds, all_arms, fits, distilled, teachers, machine, seconds, sorted(store.used))
    result.save(folder / RESULT_FILE)
    grid = pictures.grid(distilled.shown(space), distilled.labels, real.class_names, folder / "images.png")
    curves = pictures.curves(fits, folder / "curves.png")
    logger.finish(result, [grid, curves])
    return result, measurer


def looked_through(distilled: DistilledDataset, config: DictConfig, display: Display) -> StoredViews | None:
    """Say what is noteworthy about the distilled data, and read the views that are stored beside them, if asked for."""
    for note in [*distilled.notes, *_unused(config, distilled)]:
        display.say(f"{distilled.path}: {note}")
    if distilled.others and distilled.soft_labels is not None:
        raise InputError(f"{distilled.path} holds several sets of images, but soft labels for one: keep one set")
    return _stored_views(config, distilled, display)


def _unused(config: DictConfig, distilled: DistilledDataset) -> Iterator[str]:
    """What comes with the distilled data that the settings leave unused, in words."""
    method = config.method
    if distilled.soft_labels is not None and (method.labels != "single" or method.relabel):
        why = "method.relabel=true" if method.labels == "single" else f"method.labels={method.labels}"
        yield f"its soft labels are left unused, by {why}"
    if None not in (distilled.lr, method.lr) and not math.isclose(distilled.lr, method.lr, rel_tol=1e-6):
        yield (
            f"its learning rate {distilled.lr:g} is left unused, by method.lr={method.lr:g}; "
            "method.lr=null would take it"
        )


def spaces(config: DictConfig, distilled: DistilledDataset, real: RealDataset, store: Store) -> tuple[Space, Space]:
    """The space of the distilled data, and the dataset's own."""
    plain_space = fit_space("normalized", real.train, real.mean, real.std, store)
    constants = tuple(config.method.mean), tuple(config.method.std)
    if (distilled.space, *constants) == ("normalized", real.mean, real.std):
        return plain_space, plain_space
    return fit_space(distilled.space, real.train, *constants, store), plain_space


def arms_to_measure(
    config: DictConfig,
    real: RealDataset,
    distilled: DistilledDataset,
    in_spaces: tuple[Space, Space],
    teachers: Teachers | None,
    views: StoredViews | None,
    display: Display,
) -> list[Arm]:
    """The arms, but for one that a published accuracy stands in for."""
    given = _reference(config)
    for name, arm in given.items():
        display.say(
            f"{name} is a published accuracy of {config.model.name}, {arm.accuracy[0]:g}: a reference, not measured"
        )
    all_arms = arms(config, real, distilled, *in_spaces, teachers, _fitting(views, config, teachers))
    return [arm for arm in all_arms if arm.name not in given]


def refuse_impossible(config: DictConfig, distilled: DistilledDataset, real: RealDataset) -> None:
    """Stop at data that cannot be what the configuration says they are, unless `method.trust` says otherwise."""
    if not config.method.trust and (findings := doctor.cheap(distilled, config, real)):
        found = findings[0]
        raise UntrustedError(
            f"{distilled.path}: {found.sentence}; `python -m ddrank.doctor` shows it, and "
            "method.trust=true evaluates it as it is"
        )


def check_teachers(config: DictConfig, distilled: DistilledDataset) -> None:
    """Stop where the stored soft labels are those of other teachers than random images would have."""
    method, made = config.method, distilled.metadata.get("relabelled")
    theirs = made.get("teachers") if isinstance(made, dict) else None
    if method.labels != "single" or method.relabel or method.trust or theirs in (None, list(method.teachers)):
        return
    raise UntrustedError(
        f"the soft labels of {distilled.path} are those of {', '.join(map(str, theirs))}, but random images would have "
        f"those of {', '.join(method.teachers)}: say method.teachers=[{','.join(map(str, theirs))}], with their "
        "method.teacher_weights if they came from files, or method.trust=true"
    )


def find_distilled(config: DictConfig) -> Found:
    """What `method.data` names, as its files have it."""
    method, dataset = config.method, config.dataset
    if "://" not in method.data and not os.path.exists(method.data):
        if method.distiller is None:
            how = "put them there, or give their place as method.data=..."
        else:
            how = "make them with `python -m ddrank.distill` and these settings, or give their place as method.data=..."
        raise InputError(
            f"there are no distilled data of {method.name} for {dataset.name} at ipc={config.ipc}: {method.data} does "
            f"not exist; {how}"
        )
    cache = Path(config.paths.store) / "downloads"
    return look(method.data, format=method.format, soft_labels=method.soft_labels, cache=cache)


def load_distilled(config: DictConfig, found: Found, real: RealDataset | None = None) -> DistilledDataset:
    """What was found, checked against dataset and IPC; without `real`, but for the names of its classes."""
    method, dataset = config.method, config.dataset
    if found.space is None and method.made_in != method.space:
        raise InputError(
            f"{found.where} does not say in which space its images are: those of {method.name} for {dataset.name} at "
            f"ipc={config.ipc} are made in {method.made_in} (method.made_in), but method.space is {method.space}: say "
            f"method.space={method.made_in} for such images, or method.made_in={method.space} for others"
        )
    distilled = distilled_from(
        found,
        dataset=dataset.name,
        num_classes=dataset.num_classes,
        ipc=config.ipc,
        channels=dataset.channels,
        size=dataset.size,
        space=method.space,
        soft_kind=method.soft_kind,
        resize=method.resize,
        classes=None if real is None else real.names,
        trust=method.trust,
        hard=method.labels == "hard",
        soft_path=method.soft_labels,
    )
    if method.labels == "single" and not method.relabel and distilled.soft_labels is None:
        raise InputError(
            f"{distilled.path} comes without soft labels, but method.labels=single: put a labels.pt (images x classes) "
            "beside it, name it as method.soft_labels=..., or have the teachers label the images (method.relabel=true)"
        )
    if config.criterion.name == "mse_gt" and method.labels == "single" and distilled.stored_kind == "probabilities":
        raise InputError(
            f"criterion=mse_gt compares logits, but {distilled.path} stores probabilities: choose criterion=sce or kl"
        )
    return distilled


def _stored_views(config: DictConfig, distilled: DistilledDataset, display: Display) -> StoredViews | None:
    """The stored views beside the distilled data, where `method.stored_views` asks for them."""
    folder = (distilled.path if distilled.path.is_dir() else distilled.path.parent) / FOLDER
    if not config.method.stored_views:
        if config.method.labels == "multi" and folder.exists():
            display.say(f"{folder} holds stored views, which method.stored_views=false leaves unused")
        return None
    views = read_views(folder)
    if views.images != images_digest(distilled.images) or views.num_classes != config.dataset.num_classes:
        raise InputError(
            f"{folder} holds views of other images than {distilled.path}: make them again with "
            "`python -m ddrank.distill relabel`"
        )
    batch_size = min(config.train.batch_size, len(distilled.images))
    if max(views.sizes) not in (batch_size, batch_size + 1):
        raise InputError(
            f"{folder} holds views in batches of {views.sizes[0]}, but train.batch_size is {config.train.batch_size}: "
            f"say train.batch_size={views.sizes[0]}"
        )
    return views


def _fitting(views: StoredViews | None, config: DictConfig, teachers: Teachers | None) -> StoredViews | None:
    """`views`, if random images can be seen and labelled as they were: by the same augmentation and teachers."""
    if views is None or config.method.trust:
        return views
    about, aug = views.about, build.unnamed(config.aug)
    if earlier := isinstance(about.get("aug"), dict):  # by name, sorted: an earlier version made them
        about, aug = about | {"aug": build.identities(about["aug"])}, dict(sorted(aug.items()))
    for key, now, setting in (
        ("aug", build.identities(aug), "aug"),
        ("teachers", teachers.fingerprint, "method.teachers"),
    ):
        if about.get(key, now) != now:
            if earlier and key == "teachers":
                raise UntrustedError(
                    f"{views.folder} was made by an earlier version of ddrank, which does not tell whether by the "
                    "teachers that random images would be given now: make it anew with `python -m ddrank.distill "
                    "relabel` and overwrite=true, or say method.trust=true to evaluate it as it is"
                )
            raise UntrustedError(
                f"{views.folder} was made with other {key} than random images would be given now: say {setting}=... "
                "and all that concerns them as then, or method.trust=true to evaluate it as it is"
            )
    return views


def _reference(config: DictConfig) -> dict[str, ArmResult]:
    """`real_hard` where a published accuracy stands in for it."""
    accuracy = (config.dataset.real_hard_reference or {}).get(config.model.name)
    if accuracy is None:
        return {}
    return {"real_hard": ArmResult([accuracy] * config.num_eval, [None] * config.num_eval, source="reference")}


def check_parts(config: DictConfig) -> None:
    """Build everything once that will be needed later: what cannot work stops here."""
    dataset = config.dataset
    build_model(config.model, num_classes=dataset.num_classes, channels=dataset.channels, size=dataset.size)
    build.build(config.criterion, "criterion")
    mixing = [part for part in build.parts(config.aug, "aug") if isinstance(part, MixUp | CutMix)]
    if len(mixing) > 1:
        raise InputError("aug mixes images twice: keep one of mixup and cutmix")
    build.parts(dataset.real.aug, "dataset.real.aug")
    build.parts(dataset.teacher.aug, "dataset.teacher.aug")


def check_enough(config: DictConfig, real: RealDataset) -> None:
    """Refuse an IPC that some class has too few training images for."""
    pool = real.kept if config.protocol.select_on == "validation" else real.train
    for label, count in enumerate(pool.labels.bincount(minlength=real.num_classes).tolist()):
        check_ipc(config.ipc, count, real.name, real.class_names[label])


def _spans(outcomes: list[Outcome], since: float) -> dict[str, float]:
    """How long at least one student was at work, and, where one was trained, how long after `since` (the start of the
    process; of its later evaluations, their own) the first of them took its first step; seconds."""
    busy, until = 0.0, 0.0
    for began, ended in sorted(outcome.span for outcome in outcomes):
        busy += max(0.0, ended - max(began, until))
        until = max(until, ended)
    steps = [outcome.first_step for outcome in outcomes if outcome.first_step is not None]
    return {"students": busy} | ({"first_step": min(steps) - since} if steps else {})


def _result(
    config: DictConfig,
    seeds: list[int],
    all_arms: list[Arm],
    fits: dict[str, list[Fit]],
    distilled: DistilledDataset,
    teachers: Teachers | None,
    machine: engine.Engine,
    seconds: dict[str, float],
    used: list[str],
) -> Result:
    return Result(
        method=config.method.name,
        dataset=config.dataset.name,
        ipc=config.ipc,
        model=config.model.name,
        aug=config.aug.name,
        criterion=config.criterion.name,
        labels=config.method.labels,
        protocol=config.protocol.name,
        seeds=seeds,
        arms=_reference(config)
        | {
            arm.name: ArmResult([fit.accuracy for fit in fits[arm.name]], [fit.lr for fit in fits[arm.name]])
            for arm in all_arms
        },
        w=config.score.w,
        g=config.score.g,
        distilled={
            "path": str(distilled.path),
            "sha256": distilled.sha256,
            **({"teachers": teachers.fingerprint} if teachers else {}),
        },
        environment=machine.environment(),
        seconds={
            **{name: round(value, 3) for name, value in seconds.items()},
            **{name: round(sum(fit.seconds for fit in arm), 3) for name, arm in fits.items()},
        },
        config=OmegaConf.to_container(config, resolve=True),
        store=used,
    )
