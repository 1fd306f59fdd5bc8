"""Whatever a user can get wrong: one clear sentence, exit status 2, nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from conftest import QUICK, QUICK_SELECTION
from safetensors import safe_open
from safetensors.torch import load_file, save_file


class Planted:
    """A pickle that runs code when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def save_own(folder, images=None, **others):
    folder.mkdir(exist_ok=True)
    torch.save(torch.zeros(10, 1, 8, 8) if images is None else images, folder / "images.pt")
    for name, tensor in others.items():
        torch.save(tensor, folder / f"{name}.pt")


def nothing_left(folder, *allowed):
    """No run, no result, no distilled data, no temporary file."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in allowed]
    return not [path for path in files if "locks" not in path.parts and "own" not in path.parts]


CASES = [
    (("method=dmm",), "method=dmm is not known (did you mean dm?): choose one of custom"),
    (("dataset=cifar11",), "dataset=cifar11 is not known"),
    (("model=convnet99",), "model=convnet99 is not known"),
    (("aug=bogus",), "aug=bogus is not known"),
    (("trian.epochs=3",), "trian"),
    (("model.dept=4",), "model.dept"),
    (("+extra=1",), "extra"),
    (("ipc=one",), "ipc"),
    (("ipc=0",), "ipc is 0, expected 1 or more"),
    (("score.w=1.5",), "score.w is 1.5, expected a weight in [0, 1]"),
    (("train.optimizer=lion",), "train.optimizer is 'lion', expected one of sgd, adam, adamw"),
    (("protocol.lrs=[]",), "protocol.lrs"),
    (("train.gamma=-1",), "train.gamma is -1.0, expected a number above 0 and at most 1"),
    (("train.cosine_span=3",), "train.cosine_span is 3.0"),
    (("criterion=kl",), "criterion=kl needs soft labels"),
    (("method.labels=multi",), "criterion=ce ignores soft labels"),
    (("method.labels=multi", "criterion=kl", "method.teachers=[nobody]"), "there is no model 'nobody'"),
    (("method.labels=multi", "criterion=kl", "method.teacher_weights=[no.pt]"), "no.pt do not exist"),
    (("method.labels=multi", "criterion=kl", "method.teachers=[]"), "needs a teacher"),
    (("engine.precision=8",), "engine.precision is '8'"),
    (("engine.accelerator=tpu",), "engine.accelerator is 'tpu'"),
    (("engine.precision=tf32", "engine.accelerator=cpu"), "engine.precision=tf32 needs a CUDA GPU"),
    (("engine.precision=16-mixed", "engine.accelerator=cpu"), "engine.precision=16-mixed needs a CUDA GPU"),
    (("engine.threads=0",), "engine.threads is 0, expected auto or all or a number of 1 or more"),
    (("engine.threads=some",), "engine.threads is 'some'"),
    (("engine.workers=many",), "engine.workers is 'many', expected auto or a number of 1 or more"),
    (("engine.workers=-1",), "engine.workers is -1"),
    (("engine.compile=perhaps",), "engine.compile is 'perhaps', expected auto, true or false"),
    (("engine.channels_last=1",), "engine.channels_last is 1, expected auto, true or false"),
    (("model=convnet", "model.depth=5"), "smallest size that works"),
    (("model=torchvision", "model.arch=resnet19"), "resnet1"),
    (("model=timm",), "model.arch has no value"),
    (("method=dwa", "dataset=digits"), "there are no distilled data of dwa for digits at ipc=1"),
    (("method=sre2l", "dataset=cifar10"), "sre2l for cifar10 at ipc=1"),
    (("method=custom",), "method.data has no value"),
    (("method.soft_labels=labels.pt",), "method.labels=hard does not use it"),
    (("method.labels=multi", "criterion=kl", "method.teachers=[timm]"), "as in timm:resnet18"),
    (("aug=cutmix", "+aug.mixup._target_=ddrank.augment.MixUp"), "mixes images twice"),
    (
        (
            "dataset=shapes",
            "dataset.size=128",
            "dataset.loader.train_per_class=2",
            "dataset.loader.test_per_class=1",
            "method=random",
            "method.space=zca",
        ),
        "needs a matrix of 49152 x 49152",
    ),
    (("datset=digits",), "there is no setting datset: did you mean dataset?"),
    (("train.epoch=3",), "there is no setting train.epoch: did you mean train.epochs?"),
    (("model=null",), "Config group override must be a string"),
    (("method=custom", "method.data=nowhere.pt"), "nowhere.pt does not exist"),
    (("method=random", "ipc=1000"), "ipc=1000 asks for more images than class '0' of digits has"),
    (("method=custom", "method.data=lr=0.1/images.pt"), "is put in quotes, \"method.data='lr=0.1/images.pt'\""),
    (("method=custom", "method.data=data(1)/images.pt"), "is put in quotes, \"method.data='data(1)/images.pt'\""),
    (("method=custom", "method.data=a,b/images.pt"), "\"method.data='a,b/images.pt'\" for one text"),
    (("method=custom", "method.data=my", "data/images.pt"), "'data/images.pt' is no setting, expected key=value"),
    (("protocol.lrs=[0.1",), "a list is [1,2]"),
    (("method.teachers=resnet18",), "write method.teachers=[resnet18]"),
    (("ipc=ten",), "ipc is ten, expected a whole number"),
    (("score.w=half",), "score.w is half, expected a number"),
    (("plan=perhaps",), "plan is perhaps, expected true or false"),
    (("method.mean=[x]",), "method.mean is [x], expected a number at method.mean[0]"),
    (("dataset=imagefolder",), "dataset.name has no value: give it on the command line as dataset.name=..."),
    (("dataset=imagefolder", "dataset.name=birds"), "dataset.loader.path has no value"),
    (("train={epoch:3}",), "there is no setting train.epoch: did you mean train.epochs?"),
    (
        ("hydra/launcher=submitit_slurm", "hydra.launcher.additional_parameters={mail-type:END}"),
        "has no entry mail-type: to add it, write a + before it, +hydra.launcher.additional_parameters={mail-type:END}",
    ),
    (("method.distiller.init=zeros",), "method.distiller.init is 'zeros'"),
    (("method.distiller.lrr=1",), "method.distiller.lrr"),
    (("method=random", "criterion=sce", "method.labels=single", "method.temperature=0"), "emperature"),
]


@pytest.mark.parametrize(("arguments", "words"), CASES, ids=[" ".join(arguments) for arguments, _ in CASES])
def test_settings(command, tmp_path, arguments, words):
    sentence = command("run", *(QUICK_SELECTION[1:] if "method" not in arguments[0] else ()), *arguments).sentence()
    assert words in sentence
    assert nothing_left(tmp_path), list(tmp_path.rglob("*"))
    assert not (tmp_path / "runs").exists()


def test_a_job_of_a_sweep_without_a_name_for_its_dataset(command):
    outcome = command("run", "-m", "dataset=imagefolder")
    assert outcome.code == 2
    assert "dataset.name has no value: give it on the command line" in outcome.err
    assert "Traceback" not in outcome.err


own = ("method=custom", "method.data=own")


@pytest.mark.parametrize(
    ("images", "others", "arguments", "words"),
    [
        (torch.zeros(20, 1, 8, 8), {}, (), "holds 20 images, expected 10 (10 classes x ipc=1)"),
        (torch.zeros(10, 3, 8, 8), {}, (), "shape (10, 3, 8, 8), expected (10, 1, 8, 8)"),
        (torch.zeros(10, 1, 28, 28), {}, (), "expected (10, 1, 8, 8)"),
        (torch.zeros(10, 8), {}, (), "expected (10, 1, 8, 8)"),
        (torch.zeros(10, 3, 8, 1), {}, (), "save images.permute(0, 3, 1, 2)"),
        (torch.zeros(10, 1, 8, 8, dtype=torch.int16), {}, (), "floating point"),
        (torch.full((10, 1, 8, 8), float("nan")), {}, (), "NaN or infinite values in 10 of 10 images"),
        (
            None,
            {"labels": torch.arange(10) + 1},
            (),
            "own/labels.pt run from 1 to 10, expected class indices from 0 to 9: save labels - 1",
        ),
        (
            None,
            {"labels": torch.arange(5)},
            (),
            "own/labels.pt are torch.int64 of shape (5,), expected 10 class indices: ",
        ),
        (None, {"labels": torch.zeros(10)}, (), "give class 0 10 images"),
        (None, {"labels": torch.rand(10)}, (), "class indices"),
        (None, {"lr": torch.tensor(-1.0)}, (), "learning rate"),
        (None, {}, ("method.labels=single", "criterion=sce"), "comes without soft labels"),
        (None, {"labels": torch.zeros(10, 9)}, ("method.labels=single", "criterion=sce"), "shape (10, 9)"),
        (
            None,
            {"labels": torch.full((10, 10), float("inf"))},
            ("method.labels=single", "criterion=sce"),
            "NaN or infinite values in 10 of 10 soft labels",
        ),
        (
            None,
            {"labels": torch.full((10, 10), 0.5)},
            ("method.labels=single", "criterion=sce", "method.soft_kind=probabilities"),
            "do not sum to 1",
        ),
        (
            None,
            {"labels": torch.full((10, 10), 0.1)},
            ("method.labels=single", "criterion=mse_gt", "method.soft_kind=probabilities"),
            "compares logits",
        ),
        (None, {}, ("method.soft_labels=gone.pt", "method.labels=single", "criterion=sce"), "gone.pt does not exist"),
    ],
)
def test_distilled_data(command, tmp_path, images, others, arguments, words):
    save_own(tmp_path / "own", images, **others)
    assert words in command("run", *own, *arguments).sentence()
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "own/images.pt is empty (0 bytes)"),
        (b"tensor([[0., 1.]])", "own/images.pt is no file of torch.save: save the tensors with torch.save"),
        (
            torch.nn.Linear(2, 2),
            "own/images.pt holds more than tensors and was not opened for safety: save its tensors",
        ),
        (
            np.zeros((10, 1, 8, 8)),
            "own/images.pt holds more than tensors and was not opened for safety: save its tensors",
        ),
        (
            {"image_syn": torch.zeros(10, 1, 8, 8)},
            "own/images.pt holds a dict of image_syn, expected images (or x, data), labels",
        ),
    ],
    ids=["empty", "text", "module", "numpy", "keys"],
)
def test_files_that_hold_no_plain_tensors(command, tmp_path, content, words):
    save_own(tmp_path / "own", None if isinstance(content, bytes) else content)
    if isinstance(content, bytes):
        (tmp_path / "own/images.pt").write_bytes(content)
    sentence = command("run", *own).sentence()
    assert words in sentence
    assert "\x1b" not in sentence
    (tmp_path / "own/images.pt").rename(tmp_path / "own/other.pt")
    found = words.rpartition("images.pt ")[2].partition(", expected")[0]  # is the same of a file alone
    assert f"own/other.pt {found}" in command("run", own[0], "method.data=own/other.pt").sentence()


def torchscript(path):
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path)


def npz(path):
    with path.open("wb") as file:
        np.savez(file, images=PIXELS.numpy(), labels=np.arange(10))


def archive(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("set/images.txt", "0")


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize(
    ("save", "words"),
    [
        (torchscript, "is a program of TorchScript and was not opened for safety: save its tensors alone"),
        (npz, "is an .npz file of NumPy: rename it to {npz}, if it holds images and labels"),
        (archive, "is a zip archive, but none of torch.save: save the tensors with torch.save"),
    ],
)
@pytest.mark.parametrize("name", ["images.pt", "other.pt", "labels.pt"])
def test_archives_of_other_kinds_are_told_from_damaged_ones(command, tmp_path, save, name, words):
    save_own(tmp_path / "own")
    path = tmp_path / "own" / name
    save(path)
    sentence = command("run", own[0], f"method.data=own{'/other.pt' * (name == 'other.pt')}", "ipc=1").sentence()
    assert f"own/{name} {words.format(npz=path.with_suffix('.npz').name)}" in sentence
    assert "weights_only" not in sentence
    assert "damaged" not in sentence
    if save is npz and name != "labels.pt":  # what it says helps
        path.rename(path.with_suffix(".npz"))
        settings = (*QUICK_SELECTION, own[0], "method.space=pixel")
        assert command("run", *settings, f"method.data=own/{path.stem}.npz").code == 0


PIXELS = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("images", "space", "mend"),
    [
        (PIXELS, "normalized", "method.space=pixel"),
        (PIXELS * 255, "normalized", "images = images / 255 before saving, and method.space=pixel"),
        (PIXELS * 255, "pixel", "images = images / 255 before saving, and method.space=pixel"),
        (PIXELS * 16, "normalized", "images brought to [0, 1] before saving, and method.space=pixel"),
        (PIXELS * 2000 - 1000, "pixel", "images brought to [0, 1] before saving, and method.space=pixel"),
    ],
)
def test_values_of_pixels_are_refused_with_what_mends_them(command, tmp_path, images, space, mend):
    save_own(tmp_path / "own", images)
    sentence = command("run", *QUICK_SELECTION, *own, f"method.space={space}").sentence()
    assert f"method.space says {space}: " in sentence
    assert f"; mend it with {mend};" in sentence
    assert sentence.count("ddrank.doctor") == 1


def test_truncated_files(command, tmp_path):
    save_own(tmp_path / "own")
    whole = (tmp_path / "own/images.pt").read_bytes()
    (tmp_path / "own/images.pt").write_bytes(whole[: len(whole) // 2])
    assert "truncated" in command("run", *own).sentence()
    (tmp_path / "own/images.pt").unlink()
    save_file({"images": torch.zeros(10, 1, 8, 8)}, tmp_path / "own/distilled.safetensors")
    whole = (tmp_path / "own/distilled.safetensors").read_bytes()
    (tmp_path / "own/distilled.safetensors").write_bytes(whole[:-7])
    assert "truncated" in command("run", *own).sentence()
    (tmp_path / "own/distilled.safetensors").unlink()
    assert "neither distilled.safetensors nor images.pt" in command("run", *own).sentence()


@pytest.mark.parametrize("where", ["images.pt", "labels.pt", "lr.pt"])
def test_a_pickle_that_would_run_code_is_refused_without_running(command, tmp_path, where):
    save_own(tmp_path / "own")
    planted = tmp_path / "planted"
    torch.save(Planted(planted), tmp_path / "own" / where)
    assert "was not opened for safety" in command("run", *own).sentence()
    (tmp_path / "own" / where).write_bytes(pickle.dumps(Planted(planted)))
    assert "was not opened for safety" in command("run", *own).sentence()
    assert not planted.exists()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("content", ["pickle", "torchscript", "dict", "noise"])
def test_bad_teacher_files(command, tmp_path, content):
    planted, file = tmp_path / "planted", tmp_path / "teacher.pt"
    if content == "pickle":
        torch.save(Planted(planted), file)
    elif content == "torchscript":
        torchscript(file)
    elif content == "dict":
        torch.save({"features.0.weight": torch.zeros(1)}, file)
    else:
        file.write_bytes(b"no weights at all")
    arguments = ("method=random", "method.labels=multi", "criterion=kl", f"method.teacher_weights=[{file}]")
    sentence = command("run", *QUICK_SELECTION, *arguments).sentence()
    assert "does not hold the weights of a convnet3" in sentence
    assert "will likely succeed" not in sentence  # torch tells how to open it unsafely
    assert not planted.exists()
    assert not list(tmp_path.rglob("result.json"))


@pytest.mark.parametrize("setting", ["paths.runs", "paths.store", "paths.distilled"])
def test_places_that_cannot_be_written(command, tmp_path, setting):
    (tmp_path / "file").write_text("in the way")
    sentence = command("run", *QUICK, f"{setting}=file/below").sentence()
    assert "file" in sentence
    assert not list(tmp_path.rglob("result.json"))


def test_data_made_with_other_settings_are_not_taken_silently(command, tmp_path):
    assert command("distill", "method=dm", "method.distiller.iterations=3").code == 0
    sentence = command("run", *QUICK, "method.distiller.iterations=4").sentence()
    assert "was made with iterations=3, not 4" in sentence
    other_seed = ("seed=1", "method.data=distilled/digits/dm/ipc1")
    assert "seed=0, not 1" in command("distill", "method=dm", "method.distiller.iterations=3", *other_seed).sentence()
    assert command("distill", "method=dm", "method.distiller.iterations=4", "overwrite=true").code == 0
    assert command("run", *QUICK, "method.distiller.iterations=4").code == 0


def test_distilled_data_of_another_dataset(command, tmp_path):
    command("distill", "method=random")
    sentence = command("run", "method=custom", "dataset=mnist5k", "method.data=distilled/digits/random/ipc1").sentence()
    assert "was made for digits, not for mnist5k" in sentence


def test_data_made_from_other_images_are_not_taken_silently(command):
    assert command("run", *QUICK_SELECTION, "method=random").code == 0
    for other in ("dataset.validation.fraction=0.4", "dataset.mean=[0.5]", "method.mean=[0.9]"):
        sentence = command("run", *QUICK_SELECTION, "method=random", other).sentence()
        assert "other training images" in sentence
        assert "earlier version" not in sentence


def test_whitened_data_of_an_earlier_version_say_so_and_are_evaluated_as_a_file(command, tmp_path):
    """Their files hold a hash of the whitened numbers, for which a description stands now."""
    whitened = (*QUICK_SELECTION, "method=random", "method.space=zca")
    assert command("distill", "method=random", "method.space=zca").code == 0
    path = "distilled/digits/random/ipc1/distilled.safetensors"
    with safe_open(tmp_path / path, framework="pt") as file:
        metadata = file.metadata()
    made_from = json.loads(metadata["made_from"]) | {"images": "0" * 64}
    save_file(load_file(tmp_path / path), tmp_path / path, metadata | {"made_from": json.dumps(made_from)})
    for name in ("run", "distill"):
        sentence = command(name, *whitened).sentence()
        assert "other training images" in sentence
        assert "or by an earlier version of ddrank, which described whitened images otherwise" in sentence
        assert f"by method.data={path}, it is evaluated as it is" in sentence
    outcome = command("run", *whitened, f"method.data={path}")
    assert outcome.code == 0, outcome.err
    assert command("distill", "method=random", "method.space=zca", "overwrite=true").code == 0
    assert "is there already" in command("distill", "method=random", "method.space=zca").out


def test_data_of_another_seed_are_evaluated_as_they_are(command):
    assert command("distill", "method=random", "seed=3").code == 0
    place = "method.data=distilled/digits/random/ipc1/seed3"
    outcome = command("run", *QUICK_SELECTION, "method=random", place)
    assert outcome.code == 0, outcome.err
    assert "making" not in outcome.err


def test_distillers_that_are_not_there(command):
    assert "has no distiller" in command("distill", "method=dwa").sentence()


def test_missing_cifar_says_which_file_to_put_where(command, tmp_path, monkeypatch):
    import torchvision.datasets.utils as utils

    def no_network(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr(utils, "download_and_extract_archive", no_network)
    sentence = command("distill", "method=random", "dataset=cifar10").sentence()
    assert "cifar-10-python.tar.gz" in sentence
    assert "into data" in sentence


def test_the_command_itself_prints_one_line(process):
    outcome = process("ddrank.run", "method=nothing")
    assert outcome.code == 2
    assert outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "settings, problem",
    [
        (("method=dm", "method.distiller.iterations=2.5"), "method.distiller.iterations is 2.5, expected int"),
        (("method=dm", "method.distiller.iterations=abc"), "method.distiller.iterations is 'abc', expected int"),
        (("method=dm", "method.distiller.mirror=maybe"), "method.distiller.mirror is 'maybe', expected bool"),
        (("method=dm", "method.distiller.lr=true"), "method.distiller.lr is True, expected float"),
        (("method=mtt", "method.distiller.syn_batch=1.5"), "method.distiller.syn_batch is 1.5, expected int | null"),
        (
            ("method=sre2l", "method.distiller.roll=[0,1.5]"),
            "method.distiller.roll is [0, 1.5], expected Sequence[int]",
        ),
        (
            ("method=sre2l", "method.distiller.crop=0.5"),
            "method.distiller.crop is 0.5, expected Sequence[float] | null",
        ),
        (("method=dm", "job.stop_at=0"), "job.stop_at"),
        (("method=dm", "job.validate_students=0"), "job.validate_students"),
        (("method=dm", "job.frames=-1"), "job.frames"),
    ],
)
def test_bad_settings_of_a_distillation(command, tmp_path, settings, problem):
    assert problem in command("distill", *settings).sentence()
    assert not (tmp_path / "distilled").exists()
