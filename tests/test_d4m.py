"""D4M: prototypes against scikit-learn's own k-means, the denoising against diffusers' own pipeline, a Stable Diffusion
folder without any network access, the small models trained once, and the command."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.neural_network import MLPClassifier
from torch import Tensor

from ddrank import engine
from ddrank.data import RealDataset, Space
from ddrank.data.digits import load_digits
from ddrank.distill.base import Task
from ddrank.distill.d4m import D4M, Generation, centres
from ddrank.distill.latents import LatentDiffusion
from ddrank.distill.small_diffusion import SmallDiffusion
from ddrank.distill.stable_diffusion import StableDiffusion
from ddrank.engine import Engine
from ddrank.errors import InputError
from ddrank.progress import Display
from ddrank.store import Store

SMALL = {"autoencoder_width": 8, "autoencoder_steps": 120, "unet_width": 16, "unet_steps": 200, "km_expand": None}
QUICK = (
    "method=d4m",
    "method.distiller.autoencoder_width=8",
    "method.distiller.autoencoder_steps=2",
    "method.distiller.unet_width=8",
    "method.distiller.unet_steps=2",
    "method.distiller.steps=4",
    "engine.threads=1",
    "dataset.validation.fraction=0.95",  # few images to encode
    "dataset.validation.most=5000",
)
FILE = "distilled/digits/d4m/ipc1/distilled.safetensors"


@pytest.fixture(scope="module")
def store(common_folder) -> Store:
    """One for all, so that small models of one kind are trained once."""
    return Store(common_folder / "small diffusion")


def digits(store: Store, ipc: int = 1, seed: int = 0) -> Task:
    train, test, names = load_digits(Path())
    real = RealDataset("digits", train, test, names, (0.3,), (0.4,), 0.1, 5000)
    space = Space("normalized", real.mean, real.std)
    return Task(
        real=real,
        samples=space.samples(real.kept),
        space=space,
        ipc=ipc,
        generator=torch.Generator().manual_seed(seed),
        network=lambda name: torch.nn.Flatten(),
        trained=lambda name: torch.nn.Flatten(),
        training=lambda name: [],
        architecture=lambda name: {"name": name},
        store=store,
        engine=Engine(threads=1),
        display=Display(),
    )


def small(task: Task) -> SmallDiffusion:
    """The trained model of `SMALL`."""
    model = D4M(**SMALL)._model(task)
    model.make()
    return model


def prototypes(d4m: D4M, model: LatentDiffusion, task: Task) -> Tensor:
    """Those of all classes."""
    generation = Generation(d4m, task, model)
    return torch.cat([generation.prototypes(label)[0] for label in range(task.real.num_classes)])


@pytest.fixture
def offline(monkeypatch):
    """Any attempt to reach another machine fails, and is remembered."""
    tried = []

    def refuse(*arguments, **_):
        tried.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    yield
    assert not tried


# --- prototypes ---


def latents(count: int = 60) -> Tensor:
    return torch.randn(count, 4, 2, 2, generator=torch.Generator().manual_seed(2))


def test_prototypes_are_scikit_learns_centres():
    found = centres(latents(), 3, None)
    expected = KMeans(3, n_init=10, random_state=0).fit(latents().flatten(1).numpy()).cluster_centers_
    assert found.shape == (3, 4, 2, 2)
    assert torch.equal(found.flatten(1), torch.tensor(expected))


def test_mini_batches_are_of_expand_times_count_latents_and_the_rest_is_left():
    kmeans = MiniBatchKMeans(3, batch_size=6, n_init="auto", random_state=0)
    for part in latents().flatten(1).split(6):
        kmeans.partial_fit(part.numpy())
    expected = torch.tensor(kmeans.cluster_centers_)
    assert torch.equal(centres(latents(), 3, 2).flatten(1), expected)
    assert torch.equal(centres(torch.cat([latents(), 9 + latents(5)]), 3, 2).flatten(1), expected)
    assert not torch.allclose(centres(latents(), 3, 4).flatten(1), expected)


@pytest.mark.parametrize("expand", [None, 1])
def test_a_single_prototype_is_the_mean(expand):
    torch.testing.assert_close(centres(latents(), 1, expand)[0], latents().mean(0))


def test_well_separated_clusters_are_found():
    middles = torch.tensor([-9.0, 0.0, 9.0]).repeat(20)
    spread = 0.1 * latents() + middles.view(-1, 1, 1, 1)
    expected = torch.stack([spread[middles == middle].mean(0) for middle in (-9, 0, 9)])
    found = centres(spread, 3, None)
    torch.testing.assert_close(found[found.mean((1, 2, 3)).argsort()], expected)


def test_prototypes_of_a_class_are_the_centres_of_its_latents(store):
    """At IPC 1: the mean of its latents, of which the posterior's means are the expectation; class-major."""
    task = digits(store)
    model = small(task)
    found = prototypes(D4M(**SMALL), model, task)
    kept = task.real.kept
    with torch.no_grad():
        means = model.scale * model.vae.encode(2 * kept.floats() - 1).latent_dist.mean
    expected = torch.stack([means[kept.labels == label].mean(0) for label in range(10)])
    assert found.shape == (10, 4, 4, 4)
    assert float((found - expected).abs().max()) < 0.2 < 0.5 < float((found - expected.roll(1, 0)).abs().max())


# --- the small model ---


def test_decoded_latents_are_the_images(store):
    task = digits(store)
    model, pixels = small(task), task.real.kept.floats(slice(0, 200))
    encoded = model.encode(pixels, task.generator)
    decoded = model.decode(encoded)
    assert encoded.shape == (200, 4, 4, 4)
    assert decoded.shape == pixels.shape
    assert 0 <= float(decoded.min()) < 0.05 < 0.95 < float(decoded.max()) <= 1
    assert float((decoded - pixels).square().mean()) < 0.3 * float(pixels.var())
    assert float(encoded.std()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("size", "framed"), [(8, 8), (28, 32), (64, 64), (100, 112)])
def test_images_that_cannot_be_halved_get_a_margin(store, size, framed):
    task = digits(store)
    images = torch.rand(2, 1, size, size)
    samples = replace(task.real.train, images=images, labels=torch.tensor([0, 1]))
    task = replace(task, real=replace(task.real, train=samples, test=samples))
    model = SmallDiffusion(task, 8, 1, 8, 1)
    padded = model.frame(images)
    assert padded.shape[-1] == framed
    assert float(padded.sum()) == pytest.approx(float(images.sum()))  # what was put around is black
    assert torch.equal(model.unframe(padded), images)
    halved = model.encode(images, task.generator)
    assert model.denoise(halved, torch.tensor([0, 1]), 0.5, 2, 3.0, task.generator).shape == halved.shape
    assert model.decode(halved).shape == images.shape


@pytest.fixture(scope="module")
def judge(store) -> MLPClassifier:
    """A network of scikit-learn's, which reads nearly all real test images right."""
    kept, test = digits(store).real.kept, digits(store).real.test
    made = MLPClassifier((64,), max_iter=200, tol=1e-3, random_state=0)
    made.fit(kept.floats().flatten(1).numpy(), kept.labels.numpy())
    assert made.score(test.floats().flatten(1).numpy(), test.labels.numpy()) > 0.93
    return made


def test_images_look_like_their_class_to_a_network_trained_on_real_data(store, judge):
    task = digits(store, ipc=10)
    made = D4M(**SMALL).distill(task).images
    assert made.shape == (100, 1, 8, 8)
    pixels = task.space.inverse(made)
    assert -1e-6 < float(pixels.min()) < float(pixels.max()) < 1 + 1e-6
    assert judge.score(pixels.flatten(1).numpy(), task.labels.numpy()) > 0.75  # 0.81; one image is 0.01


def test_the_class_comes_from_the_label_where_the_prototype_is_all_noised(store, judge):
    """From latents that show nothing: what the labels say is what the network that saw real data reads."""
    task = digits(store, ipc=10)
    model = small(task)
    made = model.decode(model.denoise(torch.zeros(100, 4, 4, 4), task.labels, 1.0, 20, 3.0, task.generator))
    assert judge.score(made.flatten(1).numpy(), task.labels.numpy()) > 0.45  # 0.55, and 0.1 by chance


# --- the distiller ---


def test_at_strength_0_images_are_the_decoded_prototypes(store):
    distiller = D4M(**SMALL, strength=0.0)
    made = distiller.distill(digits(store, ipc=2)).images
    task = digits(store, ipc=2)
    model = small(task)
    decoded = model.decode(prototypes(distiller, model, task))
    assert torch.equal(made, task.space.forward(decoded))
    assert made.shape == (20, 1, 8, 8)
    assert not torch.equal(made, D4M(**SMALL, strength=0.5).distill(digits(store, ipc=2)).images)


def test_the_seed_decides_the_images(store):
    before = torch.get_rng_state()
    made = [D4M(**SMALL).distill(digits(store, seed=seed)).images for seed in (0, 0, 1)]
    assert torch.equal(made[0], made[1])
    assert not torch.equal(made[0], made[2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"strength": 1.1}, "method.distiller.strength is 1.1, expected a number from 0 to 1"),
        ({"steps": 2000}, "method.distiller.steps is 2000, expected at most 1000"),
        ({"km_expand": 0}, "method.distiller.km_expand is 0, expected a number above 0"),
        ({"guidance": -1.0}, "method.distiller.guidance is -1.0, expected 0 or more"),
        ({"unet_width": 12}, "method.distiller.unet_width is 12, expected a multiple of 8"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        D4M(**settings)


def test_guidance_is_the_published_one_with_a_checkpoint():
    assert (D4M(checkpoint="a/b").guidance, D4M().guidance, D4M(guidance=1.0).guidance) == (8.0, 3.0, 1.0)


def test_what_counts_with_a_checkpoint_and_what_with_the_small_model(tmp_path):
    of_small = {"autoencoder_width": 64, "autoencoder_steps": 9, "unet_width": 32, "unet_steps": 9}
    prompt = {"negative": "a dog"}
    for checkpoint, counts, aside in ((str(tmp_path), prompt, of_small), (None, of_small, prompt)):
        plain = D4M(checkpoint=checkpoint).effective()
        assert D4M(checkpoint=checkpoint, **aside).effective() == plain
        assert D4M(checkpoint=checkpoint, **counts).effective() == plain | counts != plain


def test_a_checkpoint_is_known_by_its_name_and_content_wherever_it_lies(tmp_path):
    def known(place: str, content: str) -> str:
        (tmp_path / place / "unet").mkdir(parents=True, exist_ok=True)
        (tmp_path / place / "unet/config.json").write_text(content)
        return D4M(checkpoint=str(tmp_path / place)).parameters()["checkpoint"]

    one = known("here/sd", "1")
    assert one.startswith("sd (")
    assert one == known("there/sd", "1")
    assert one != known("there/sd", "2")


# --- Stable Diffusion in a folder ---


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random Stable Diffusion model of 16 pixels, as diffusers saves it."""
    import diffusers
    from transformers import CLIPTextConfig, CLIPTextModel

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    ).save_pretrained(folder / "vae")
    diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
    ).save_pretrained(folder / "unet")
    diffusers.PNDMScheduler(  # Stable Diffusion 1.5's
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        steps_offset=1,
        set_alpha_to_one=False,
    ).save_pretrained(folder / "scheduler")
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer/vocab.json").write_text(json.dumps({token: row for row, token in enumerate(tokens)}))
    (folder / "tokenizer/merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": tokens[-2], "eos_token": tokens[-1], "pad_token": tokens[-1], "unk_token": tokens[-1]}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 8, **special}
    (folder / "tokenizer/tokenizer_config.json").write_text(json.dumps(settings))
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=len(tokens) - 2,
        eos_token_id=len(tokens) - 1,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    return folder


def with_ten_images(store: Store) -> Task:
    """One training image of each class and another to be held out."""
    task = digits(store)
    rows = torch.cat([(task.real.train.labels == label).nonzero().flatten()[:2] for label in range(10)])
    real = replace(task.real, train=task.real.train[rows])
    return replace(task, real=real, samples=task.space.samples(real.kept))


@pytest.mark.parametrize("strength", [0.3, 0.7, 1.0])
def test_the_denoising_is_that_of_the_pipeline_of_diffusers(store, checkpoint, offline, strength):
    """Image-to-image from latents, guided by 8 from the negative prompt, with the scheduler of the checkpoint."""
    import diffusers

    model = StableDiffusion(checkpoint, digits(store), "cartoon")
    parts = {name: getattr(model, name) for name in ("vae", "unet")}
    pipeline = diffusers.StableDiffusionImg2ImgPipeline(
        **parts,
        scheduler=diffusers.PNDMScheduler.from_pretrained(checkpoint / "scheduler"),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    labels, start = torch.tensor([3, 7]), torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    expected = pipeline(
        prompt_embeds=model.conditions[labels],
        negative_prompt_embeds=model.conditions[-1:].expand(2, -1, -1),
        image=start,
        strength=strength,
        guidance_scale=8.0,
        num_inference_steps=10,
        generator=torch.Generator().manual_seed(6),
        output_type="latent",
    ).images
    found = model.denoise(start, labels, strength, 10, 8.0, torch.Generator().manual_seed(6))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, start, atol=0.1)


def test_prompts_are_the_names_of_the_classes(store, checkpoint):
    from transformers import CLIPTextModel, CLIPTokenizer

    model = StableDiffusion(checkpoint, digits(store), "a dog, a cat")
    tokenizer = CLIPTokenizer.from_pretrained(checkpoint / "tokenizer")
    encoder = CLIPTextModel.from_pretrained(checkpoint / "text_encoder")
    for row, prompt in ((3, "3"), (-1, "a dog, a cat")):
        tokens = tokenizer([prompt], padding="max_length", max_length=8, truncation=True, return_tensors="pt")
        with torch.no_grad():
            torch.testing.assert_close(model.conditions[row], encoder(tokens.input_ids).last_hidden_state[0])
    assert model.conditions.shape == (11, 8, 16)


def called(task: Task, *names: str) -> Task:
    """The same task with other names of its first classes."""
    return replace(task, real=replace(task.real, class_names=(*names, *task.real.class_names[len(names) :])))


def test_underscores_are_spaces_in_prompts(store, checkpoint):
    found, expected = (
        StableDiffusion(checkpoint, called(digits(store), name), "").conditions[0]
        for name in ("aquarium_fish", "aquarium fish")
    )
    assert torch.equal(found, expected)


def test_synsets_are_no_prompts(store, checkpoint):
    with pytest.raises(InputError, match=r"digits has no name but n01443537.*put words.txt"):
        StableDiffusion(checkpoint, called(digits(store), "tench", "n01443537"), "")
    assert D4M(**SMALL)._model(called(digits(store), "n01443537"))  # the small model reads no names


def test_a_folder_of_stable_diffusion_makes_images_without_any_network(store, checkpoint, offline, tmp_path):
    distiller = D4M(checkpoint=str(checkpoint), steps=4)
    made = [distiller.distill(with_ten_images(store)).images for _ in range(2)]
    assert made[0].shape == (10, 1, 8, 8)
    assert torch.equal(made[0], made[1])
    half = shutil.copytree(checkpoint, tmp_path / "half")
    for weights in half.rglob("*.safetensors"):  # as folders with half precision alone call them
        weights.rename(weights.with_name(weights.name.replace(".safetensors", ".fp16.safetensors")))
    assert torch.equal(made[0], D4M(checkpoint=str(half), steps=4).distill(with_ten_images(store)).images)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (shutil.rmtree, "which is no folder"),
        (lambda folder: shutil.rmtree(folder / "tokenizer"), "it has no tokenizer"),
        (lambda folder: (folder / "text_encoder_2").mkdir(), "it has two text encoders"),
        (lambda folder: next((folder / "unet").glob("*.safetensors")).unlink(), r"unet|safetensors"),
        (lambda folder: (folder / "vae/config.json").write_text("{"), "vae|JSON|json"),
        (
            lambda folder: (folder / "scheduler/scheduler_config.json").write_text('{"_class_name": "AutoencoderKL"}'),
            "its scheduler is 'AutoencoderKL'",
        ),
    ],
)
def test_folders_that_are_no_checkpoint_are_refused(store, checkpoint, offline, tmp_path, spoil, sentence):
    spoiled = shutil.copytree(checkpoint, tmp_path / "spoiled")
    spoil(spoiled)
    with pytest.raises(InputError, match=sentence) as refused:
        StableDiffusion(spoiled, digits(store), "")
    assert "method.distiller.checkpoint" in str(refused.value)
    assert "\n" not in str(refused.value)


# --- the command ---


def images(place: Path) -> bytes:
    with safe_open(place, framework="pt") as file:
        return file.get_tensor("images").numpy().tobytes()


def test_the_command_trains_the_models_once_and_goes_on_from_what_is_kept(command, offline, tmp_path):
    first = command("distill", *QUICK)
    assert first.code == 0, first.err
    assert "2 steps of the autoencoder of" in first.err.splitlines()[0]
    assert "2 steps of the diffusion model of" in first.err.splitlines()[0]
    assert "trained the autoencoder of digits in" in first.err
    made = images(tmp_path / FILE)
    kept = tmp_path.rglob("store/tensors/*/*.safetensors")
    (diffusion,) = (path for path in kept if b"latent diffusion" in path.read_bytes())
    again = command("distill", *QUICK, "overwrite=true")
    assert "autoencoder" not in again.err.replace("autoencoder_", "")
    assert "images to generate" in again.err.splitlines()[0]
    assert images(tmp_path / FILE) == made
    diffusion.unlink()  # as after a job that was killed while training it
    resumed = command("distill", *QUICK, "overwrite=true")
    assert "trained the diffusion model of digits in" in resumed.err
    assert "trained the autoencoder" not in resumed.err
    assert images(tmp_path / FILE) == made
    other = command("distill", *QUICK, "ipc=2", "seed=1", "method.space=zca")
    assert other.code == 0, other.err
    assert "trained" not in other.err


def test_stopped_among_the_prototypes_and_among_the_images_it_goes_on_to_the_same_ones(command, tmp_path):
    settings = (*QUICK, "ipc=7", "job.frames=3")  # 10 classes, then 2 batches of images
    assert command("distill", *settings, "paths.distilled=undisturbed").code == 0
    for stop in (4, 11):
        stopped = command("distill", *settings, f"job.stop_at={stop}")
        assert "the same command without job.stop_at goes on" in stopped.err
    assert "going on at iteration 11 of 12" in command("distill", *settings).err
    file = FILE.replace("ipc1", "ipc7").removeprefix("distilled/")
    assert images(tmp_path / "distilled" / file) == images(tmp_path / "undisturbed" / file)


def test_the_command_takes_a_checkpoint(command, checkpoint, offline, tmp_path):
    outcome = command("distill", *QUICK, f"method.distiller.checkpoint={checkpoint}")
    assert outcome.code == 0, outcome.err
    assert "trained" not in outcome.err
    assert "Loading" not in outcome.err  # no bars but our own, and no advice
    assert "pip install" not in outcome.err
    assert "10 images to generate of" in outcome.err.splitlines()[0]
    with safe_open(tmp_path / FILE, framework="pt") as file:
        assert file.get_tensor("images").shape == (10, 1, 8, 8)
        distiller = json.loads(file.metadata()["distiller"])
    assert distiller["checkpoint"].startswith("tiny (")
    assert distiller["guidance"] == 8.0


def test_a_checkpoint_is_taken_in_half_precision_since_nothing_is_trained(command, checkpoint, offline, monkeypatch):
    start = engine.start
    monkeypatch.setattr(engine, "start", lambda config: replace(start(config), precision="16-mixed"))
    outcome = command("distill", *QUICK, f"method.distiller.checkpoint={checkpoint}")
    assert outcome.code == 0, outcome.err
    assert "needs a loss scale, which D4M does not have" in command("distill", *QUICK, "seed=1").sentence()


@pytest.mark.parametrize("name", ["distill", "run"])
def test_without_the_extra_it_says_what_to_install(command, monkeypatch, tmp_path, name):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    assert 'pip install "ddrank[diffusion]"' in command(name, *QUICK).sentence()
    assert not list(tmp_path.rglob("*.safetensors"))


def test_too_few_images_for_the_prototypes_are_said(command):
    sentence = command("distill", *QUICK, "ipc=60", "method.distiller.km_expand=2").sentence()
    assert "km_expand * IPC = 120 images of each class" in sentence
