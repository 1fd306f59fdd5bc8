"""Small files in exactly the layouts of other projects, written without any code of ours."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow
import torch
from PIL import Image
from pyarrow import parquet

CLASSES, IPC, SIZE = 3, 2, 8
LABELS = torch.arange(CLASSES).repeat_interleave(IPC)


def floats(count: int = CLASSES * IPC, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def soft(count: int = CLASSES * IPC) -> torch.Tensor:
    return torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(9))


def picture(label: int, number: int, size: int = SIZE) -> Image.Image:
    """An image of smooth colour that tells its class and number, so that JPEG keeps it nearly."""
    ramp = np.arange(size)[:, None] * np.ones((1, size))
    channels = [40 * (label % 6) + ramp, 200 - 20 * number - ramp, 30 + 10 * (label % 7) + 8 * number + 0 * ramp]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


def ddranking(folder: Path, labels: torch.Tensor | None = None, lr: float | None = 0.01) -> Path:
    """images.pt, labels.pt (soft), lr.pt of the package of that name."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(floats(), folder / "images.pt")
    torch.save(soft() if labels is None else labels, folder / "labels.pt")
    if lr is not None:
        torch.save(torch.tensor(lr), folder / "lr.pt")
    return folder


def dc(folder: Path, method: str = "DM", runs: int = 3, accuracy: object = np.float64) -> Path:
    """res_DM_CIFAR10_ConvNet_2ipc.pt: runs of [images, labels], accuracies as NumPy scalars."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "data": [[floats(seed=run), LABELS.clone()] for run in range(runs)],
        "accs_all_exps": {"ConvNet": [accuracy(0.25 + run / 100) for run in range(runs)]},
    }
    path = folder / f"res_{method}_CIFAR10_ConvNet_{IPC}ipc.pt"
    torch.save(content, path)
    return path


def dc_best(folder: Path) -> Path:
    """images_DM_CIFAR10_2_best.pt with labels_DM_CIFAR10_2_best.pt, of a fork of that code."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(floats(), folder / f"images_DM_CIFAR10_{IPC}_best.pt")
    torch.save(LABELS, folder / f"labels_DM_CIFAR10_{IPC}_best.pt")
    return folder / f"images_DM_CIFAR10_{IPC}_best.pt"


def mtt(folder: Path) -> Path:
    """images_{it}.pt and labels_{it}.pt of several iterations and of the best, and un-whitened copies."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, tag in enumerate(("0", "900", "1000", "best")):
        torch.save(floats(seed=number), folder / f"images_{tag}.pt")
        torch.save(LABELS, folder / f"labels_{tag}.pt")
        torch.save(floats(seed=number).sigmoid(), folder / f"images_zca_{tag}.pt")
    return folder


def mtt_parts(folder: Path, parts: int = 3) -> Path:
    """images_best_0.pt, images_best_1.pt, ... with labels of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (images, labels) in enumerate(zip(floats().chunk(parts), LABELS.chunk(parts), strict=True)):
        torch.save(images.clone(), folder / f"images_best_{part}.pt")
        torch.save(labels.clone(), folder / f"labels_best_{part}.pt")
    return folder


def datm(folder: Path) -> Path:
    """images_best.pt, labels_best.pt (logits), lr_best.pt (0-dimensional)."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(floats(), folder / "images_best.pt")
    torch.save(soft(), folder / "labels_best.pt")
    torch.save(torch.tensor(0.03), folder / "lr_best.pt")
    return folder


def sre2l(folder: Path, classes: int = CLASSES, size: int = SIZE) -> Path:
    """newCCC/classCCC_idIII.jpg."""
    for label in range(classes):
        (folder / f"new{label:03d}").mkdir(parents=True, exist_ok=True)
        for number in range(IPC):
            picture(label, number, size).save(folder / f"new{label:03d}/class{label:03d}_id{number:03d}.jpg")
    return folder


def rded(folder: Path, classes: int = CLASSES) -> Path:
    """CCCCC/classCCCCC_idIIIII.jpg."""
    for label in range(classes):
        (folder / f"{label:05d}").mkdir(parents=True, exist_ok=True)
        for number in range(IPC):
            picture(label, number).save(folder / f"{label:05d}/class{label:05d}_id{number:05d}.jpg")
    return folder


def d4m(folder: Path, classes: int = CLASSES, ipc: int = IPC) -> Path:
    """CLASS/CLASS-imageIJ.png, the class index unpadded."""
    for label in range(classes):
        (folder / f"{label}").mkdir(parents=True, exist_ok=True)
        for number in range(ipc):
            picture(label, number).save(folder / f"{label}/{label}-image{number}0.png")
    return folder


def imagefolder(folder: Path, names: tuple[str, ...] = ("ant", "bee", "cat"), mode: str = "RGB") -> Path:
    for label, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(IPC):
            picture(label, number).convert(mode).save(folder / name / f"{number}.png")
    return folder


def npz(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "set.npz", images=floats().numpy(), labels=LABELS.numpy(), soft_labels=soft().numpy(), lr=0.02)
    return folder / "set.npz"


def encoded(label: int, number: int) -> bytes:
    return encoded_as_png(np.array(picture(label, number)))


def encoded_as_png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def huggingface_table(names: tuple[str, ...] | None = ("ant", "bee", "cat")) -> pyarrow.Table:
    """Columns as the `datasets` library writes an Image and a ClassLabel feature."""
    rows = [(label, number) for label in range(CLASSES) for number in range(IPC)]
    images = [{"bytes": encoded(*row), "path": f"{row[0]}_{row[1]}.png"} for row in rows]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table(
        {"image": pyarrow.array(images, kind), "label": pyarrow.array([row[0] for row in rows], pyarrow.int64())}
    )
    label = {"dtype": "int64", "_type": "Value"} if names is None else {"names": list(names), "_type": "ClassLabel"}
    info = {"info": {"features": {"image": {"_type": "Image"}, "label": label}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


def huggingface(folder: Path) -> Path:
    """data/train-00000-of-00002.parquet, ... of a repository of the hub."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    table = huggingface_table()
    for part in range(2):
        parquet.write_table(table.slice(3 * part, 3), folder / f"data/train-{part:05d}-of-00002.parquet")
    (folder / "README.md").write_text("a data set")
    return folder


def saved_to_disk(folder: Path) -> Path:
    """data-00000-of-00001.arrow, dataset_info.json, state.json of `Dataset.save_to_disk`."""
    folder.mkdir(parents=True, exist_ok=True)
    table = huggingface_table()
    schema, path = table.schema.remove_metadata(), str(folder / "data-00000-of-00001.arrow")
    with pyarrow.OSFile(path, "wb") as sink, pyarrow.ipc.new_stream(sink, schema) as writer:
        writer.write_table(table)
    info = json.loads(table.schema.metadata[b"huggingface"])["info"]
    (folder / "dataset_info.json").write_text(json.dumps(info))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    return folder


def pickled(content: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))
    return path
