"""The jobs that are disturbed: whole commands at the smallest size."""

from __future__ import annotations

from .trial import Job

_SMALL = (
    "model=mlp", "num_eval=1", "protocol.lrs=[0.05]", "train.epochs=3", "train.step_size=2", "dataset.real.epochs=1",
    "dataset.teacher.epochs=1", "engine.threads=1", "engine.compile=false", "logger=none",
)  # fmt: skip
SELECTED = ("method=random", *_SMALL)
ALONE = ("engine.workers=1",)
LONG = ("train.epochs=60", "train.step_size=30", "dataset.real.epochs=10", "engine.checkpoint_every=1e-9")

RUN = Job("run", "ddrank.run:main", (*SELECTED, *ALONE))
TAUGHT = Job(
    "run-with-teacher",
    "ddrank.run:main",
    (*SELECTED, *ALONE, "method.labels=multi", "method.teachers=[mlp]", "criterion=kl"),
)
STUDENT = Job("long-student", "ddrank.run:main", (*SELECTED, *ALONE, *LONG))
SWEEP = Job("sweep", "ddrank.run:main", ("-m", *SELECTED, *ALONE, "seed=0,1"))
WORKERS = Job("run-with-workers", "ddrank.run:main", (*SELECTED, *LONG, "engine.workers=2", "aug=dsa"))
DISTILLATION = Job(
    "distillation",
    "ddrank.distill.__main__:main",
    (
        "method=dm", *_SMALL, *ALONE, "method.distiller.iterations=12", "method.distiller.real_batch=8",
        "job.checkpoint_minutes=0", "job.frames=3",
    ),
)  # fmt: skip
