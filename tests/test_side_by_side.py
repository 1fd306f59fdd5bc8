"""Students side by side: the same numbers with any number of workers, and nothing lost when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
from conftest import QUICK, QUICK_SELECTION, results
from torch import nn

from ddrank import build, crew, engine, schedule
from ddrank.crew import Crew
from ddrank.data import Samples
from ddrank.errors import InputError
from ddrank.fit import Assignment, run
from ddrank.progress import Display
from ddrank.schedule import Scheduler, Task
from ddrank.store import Store
from ddrank.student import Training
from ddrank.teacher import Teachers

TWO = [argument for argument in QUICK if not argument.startswith("engine.workers")] + ["engine.workers=2"]
TWO_SELECTION = [argument for argument in TWO if not argument.startswith("method.distiller")]
MACHINE = engine.Engine("cpu", "32-true", 1, workers=2)
MLP = {"_target_": "ddrank.models.MLP"}


@pytest.fixture
def crew_of_two():
    with_workers = Crew(MACHINE, 2)
    yield with_workers
    with_workers.close()


def samples(count: int = 12, seed: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(seed)
    return Samples(
        torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8),
        torch.arange(count) % 3,
        torch.randn(count, 3, generator=generator),
        (0.3,),
        (0.4,),
    )


def an_assignment(**changes) -> Assignment:
    recipe = Training(3, 5, "sgd", 0.9, (0.9, 0.999), 0.0005, "constant", 1, 0.1, 1.0)
    assignment = Assignment(
        name="a student",
        model=MLP,
        num_classes=3,
        training=recipe,
        criterion={"_target_": "ddrank.criteria.CrossEntropy"},
        aug={"dsa": {"_target_": "ddrank.augment.DSA", "mirror": False}},
        black=[0.0],
        lr=0.05,
        seed=1,
        samples=samples(),
        tests=samples(50, seed=1),
        keep_weights=True,
    )
    return replace(assignment, **changes)


def outcome_of(workers: Crew, assignment: Assignment):
    workers.start("ticket", assignment)
    while True:
        for message in workers.wait(60):
            if message.kind not in ("advance", "said"):
                return message.kind, message.content


def entries(folder) -> dict:
    """The store's entries, but for their times."""
    found = {path.name: json.loads(path.read_text()) for path in (folder / "measurements").rglob("*.json")}
    for entry in found.values():
        entry["value"].pop("seconds")
        entry.pop("sha256")
    return found


@pytest.mark.parametrize(
    "arguments",
    [
        ("aug=dsa", "protocol.lrs=[0.01,0.05]", "num_eval=2"),
        pytest.param(("aug=dsa", "protocol=ddranking", "train.epochs=10", "num_eval=2"), marks=pytest.mark.slow),
        ("model=convnet3", "method.labels=multi", "criterion=kl", "aug=cutmix"),
        pytest.param(
            ("model=convnet3", "method.labels=single", "criterion=sce", "aug=crop_mixup"), marks=pytest.mark.slow
        ),
    ],
)
def test_one_worker_and_two_give_the_same_to_the_last_bit(command, tmp_path, arguments):
    one = command("run", *QUICK_SELECTION, "method=random", *arguments, "paths.store=one")
    two = command("run", *TWO_SELECTION, "method=random", *arguments, "paths.store=two")
    assert (one.code, two.code) == (0, 0), two.err
    assert entries(tmp_path / "one") == entries(tmp_path / "two")
    first, second = results(tmp_path)
    assert first["arms"] == second["arms"]
    assert first["scores"] == second["scores"]
    assert second["environment"]["workers"] == 2


def test_a_worker_finds_what_this_process_finds(crew_of_two, monkeypatch):
    """Samples that travel by value or by shared memory, with teachers, with weights."""
    expected = run(an_assignment(), MACHINE, lambda: None)
    for threshold in (1 << 30, 0):
        monkeypatch.setattr(crew, "_SHARED_BYTES", threshold)
        kind, outcome = outcome_of(crew_of_two, an_assignment())
        assert kind == "done", outcome
        assert (outcome.accuracy, outcome.losses) == (expected.accuracy, expected.losses)
        assert all(torch.equal(outcome.weights[name], tensor) for name, tensor in expected.weights.items())
    teachers = Teachers((nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(),), "a teacher")
    taught = an_assignment(teachers=teachers, criterion={"_target_": "ddrank.criteria.KL", "temperature": 2.0})
    kind, outcome = outcome_of(crew_of_two, taught)
    assert outcome.losses == run(taught, MACHINE, lambda: None).losses != expected.losses
    kind, outcome = outcome_of(crew_of_two, an_assignment(weights=expected.weights))
    assert (outcome.accuracy, outcome.losses, outcome.first_step) == (expected.accuracy, [], None)


def test_many_shared_samples_are_forgotten_and_sent_again(crew_of_two, monkeypatch):
    monkeypatch.setattr(crew, "_SHARED_BYTES", 0)
    monkeypatch.setattr(crew, "_SHARED_FILES", 3)
    short = replace(an_assignment().training, epochs=1)
    for seed in (0, 1, 2, 3, 4, 0):
        assignment = an_assignment(samples=samples(seed=seed), training=short)
        kind, outcome = outcome_of(crew_of_two, assignment)
        assert kind == "done", outcome
        assert outcome.losses == run(assignment, MACHINE, lambda: None).losses
    assert len(crew_of_two._shared) <= 3


DEADLY = '''
import os, signal, pathlib
from ddrank.criteria import CrossEntropy

class KillOnce(CrossEntropy):
    """Ends its process at the first step, as the kernel does when memory is short."""
    def forward(self, logits, target, label):
        for number in range(int(os.environ["TIMES"])):
            try:
                pathlib.Path(os.environ["DEATHS"], str(number)).touch(exist_ok=False)
            except FileExistsError:
                continue
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(logits, target, label)
'''


@pytest.fixture
def deadly(tmp_path, monkeypatch):
    """A criterion that kills its process; the run is one of its own, so that its workers see it."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules/deadly.py").write_text(DEADLY)
    (tmp_path / "deaths").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"), prepend=os.pathsep)
    monkeypatch.setenv("DEATHS", str(tmp_path / "deaths"))
    monkeypatch.setenv("TIMES", "1")
    return "criterion._target_=deadly.KillOnce"


@pytest.mark.slow
def test_a_student_whose_worker_dies_is_trained_once_more(process, command, tmp_path, deadly):
    outcome = process("ddrank.run", *TWO, deadly)
    assert outcome.code == 0, outcome.err
    assert outcome.err.count("its worker process ended (killed by SIGKILL); trying once more") == 1
    command("run", *QUICK, "paths.store=undisturbed")
    disturbed, undisturbed = results(tmp_path)
    assert disturbed["arms"] == undisturbed["arms"]


@pytest.mark.slow
def test_a_student_that_is_lost_twice_ends_the_run_with_a_sentence(process, tmp_path, deadly, monkeypatch):
    monkeypatch.setenv("TIMES", "50")
    outcome = process("ddrank.run", *TWO, deadly)
    assert "was lost twice" in outcome.sentence(3)
    assert "engine.workers" in outcome.sentence(3)
    assert not results(tmp_path)
    # Nothing finished is lost, and no lock is left behind.
    finished = {
        json.dumps({name: part for name, part in entry["key"].items() if name != "tested_on"})
        for entry in entries(tmp_path / "store").values()
    }
    monkeypatch.setenv("TIMES", "0")
    again = process("ddrank.run", *TWO, deadly)
    assert again.code == 0, again.err
    assert f"trained {6 - len(finished)} students" in again.err


def test_a_worker_has_the_code_that_the_key_was_made_of(crew_of_two, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code, assignment = tmp_path / "edited_loss.py", an_assignment(criterion={"_target_": "edited_loss.Loss"})
    code.write_text("from ddrank.criteria import CrossEntropy\n\nclass Loss(CrossEntropy):\n    pass\n")
    assert build.codes(assignment.criterion)["edited_loss.Loss"]
    code.write_text(code.read_text() + "    weight = 2\n")
    kind, sentence = outcome_of(crew_of_two, assignment)
    assert kind == "refused"
    assert "the file of edited_loss.Loss was edited after it had been imported: start Python anew" in sentence
    del sys.modules["edited_loss"]
    assert outcome_of(crew_of_two, assignment)[0] == "done"


def test_errors_in_a_worker_arrive_as_what_they_are(crew_of_two):
    kind, sentence = outcome_of(crew_of_two, an_assignment(criterion={"_target_": "ddrank.criteria.CrossEntropi"}))
    assert kind == "refused"
    assert "CrossEntropi" in sentence
    kind, text = outcome_of(crew_of_two, an_assignment(num_classes=2))  # labels outside the classes
    assert kind == "failed"
    assert "Traceback" in text
    assert outcome_of(crew_of_two, an_assignment())[0] == "done"  # and the worker goes on


def session(leader: int) -> set[int]:
    """The living processes of a session, workers and fork servers among them; not those that wait to be buried."""
    listed = subprocess.run(["ps", "-eo", "pid,sess,stat"], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in listed.splitlines()[1:]]
    return {int(pid) for pid, sess, state in lines if int(sess) == leader and not state.startswith("Z")}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_evaluation(tmp_path, ending, workers):
    arguments = [sys.executable, "-m", "ddrank.run", *TWO[:-1], f"engine.workers={workers}"]
    arguments += ["num_eval=3", "train.epochs=30000", "logger=none"]
    running = subprocess.Popen(
        arguments,
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores it
    )
    deadline = time.monotonic() + 120
    while not list((tmp_path / "store").rglob("measurements/*/*.json")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list((tmp_path / "store").rglob("measurements/*/*.json"))
    assert running.poll() is None
    assert len(session(running.pid)) >= (4 if workers == 2 else 1)  # itself, the server, two workers
    os.killpg(running.pid, ending) if ending == signal.SIGINT else os.kill(running.pid, ending)
    code = running.wait()
    assert code in {signal.SIGKILL: (-9,), signal.SIGTERM: (-15, 143), signal.SIGINT: (130,)}[ending]
    deadline = time.monotonic() + 30
    while session(running.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not session(running.pid)


def a_task(name: str, assignment: Assignment, **changes) -> Task:
    def value(outcome):
        return {"accuracy": outcome.accuracy, "losses": outcome.losses}

    task = Task(
        key={"name": name}, name=name, assignment=lambda: assignment, value=value, numbers=10, total=100, work=1.0
    )
    return replace(task, **changes)


def plan(*tasks):
    values = yield list(tasks)
    return values


@pytest.mark.parametrize("workers", [1, 2])
def test_plans_that_want_the_same_share_one_student(tmp_path, workers, crew_of_two):
    store = Store(tmp_path)
    with Display() as display:
        scheduler = Scheduler(store, MACHINE, display, crew_of_two if workers == 2 else None)
        both = {
            name: plan(a_task("shared", an_assignment()), a_task(name, an_assignment(seed=10 + len(name))))
            for name in ("a", "bb")
        }
        told = []
        found = scheduler.run(both, lambda name, values: told.append(name))
    assert told == ["a", "bb"]
    assert found["a"][0] == found["bb"][0] != found["a"][1] != found["bb"][1]
    assert (scheduler.trained, scheduler.found) == (3, 0)
    with Display() as display:
        again = Scheduler(store, MACHINE, display, None)
        assert again.run({"a": plan(a_task("shared", an_assignment()))})["a"][0] == found["a"][0]
    assert (again.trained, again.found) == (0, 1)


def test_that_another_job_is_waited_for_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "_SILENCE", 0.0)
    mine, theirs, value, said = Store(tmp_path), Store(tmp_path), {"accuracy": 0.5, "losses": []}, []
    lock = theirs.claim({"name": "theirs"})

    def say(text):
        said.append(text)
        theirs.keep({"name": "theirs"}, value)
        lock.release()

    with Display() as display:
        monkeypatch.setattr(display, "say", say)
        found = Scheduler(mine, MACHINE, display, None).run({"a": plan(a_task("theirs", an_assignment()))})
    assert said == ["waiting for 1 measurement that another job is making"]
    assert found["a"][0] == value


@pytest.mark.parametrize("workers", [1, 2])
def test_what_another_job_is_computing_is_waited_for(tmp_path, workers, crew_of_two):
    mine, theirs = Store(tmp_path), Store(tmp_path)
    claimed, value = threading.Event(), {"accuracy": 0.5, "losses": []}

    def finish():
        lock = theirs.claim({"name": "theirs"})
        claimed.set()
        while not mine.lookup({"name": "mine"}):
            time.sleep(0.02)
        theirs.keep({"name": "theirs"}, value)
        lock.release()

    other = threading.Thread(target=finish)
    other.start()
    claimed.wait()
    assert mine.claim({"name": "theirs"}) is None
    with Display() as display:
        scheduler = Scheduler(mine, MACHINE, display, crew_of_two if workers == 2 else None)
        found = scheduler.run({"a": plan(a_task("theirs", an_assignment()), a_task("mine", an_assignment()))})
    other.join()
    assert found["a"][0] == value  # not trained here
    assert (scheduler.trained, scheduler.found) == (1, 1)
    again = mine.claim({"name": "mine"})
    assert again is not None  # the lock is free
    again.release()


def test_large_students_are_trained_here_when_the_small_ones_are_done(tmp_path, crew_of_two, monkeypatch):
    machine = replace(MACHINE, threads="auto")
    monkeypatch.setattr(engine, "cores", lambda: 2)
    order = []
    where = Scheduler._begin

    def watched(self, entry, beside):
        order.append((entry.task.name, beside))
        where(self, entry, beside)

    monkeypatch.setattr(Scheduler, "_begin", watched)
    with Display() as display:
        tasks = [
            a_task("large", an_assignment(), numbers=1 << 20),
            a_task("many", an_assignment(seed=4), total=1 << 40),
            a_task("small", an_assignment()),
            a_task("tiny", an_assignment(seed=3)),
        ]
        Scheduler(Store(tmp_path), machine, display, crew_of_two).run({"a": plan(*tasks)})
    assert order == [("small", True), ("tiny", True), ("large", False), ("many", False)]


def test_a_refusal_in_a_worker_ends_the_run_and_frees_the_locks(tmp_path, crew_of_two):
    store = Store(tmp_path)
    bad = an_assignment(criterion={"_target_": "ddrank.criteria.CrossEntropi"})
    with Display() as display, pytest.raises(InputError, match="CrossEntropi"):
        Scheduler(store, MACHINE, display, crew_of_two).run(
            {"a": plan(a_task("bad", bad), a_task("good", an_assignment()))}
        )
    for name in ("bad", "good"):
        lock = store.claim({"name": name})
        assert lock is not None
        lock.release()
