"""The leaderboard's page as a file: what it holds, what it cannot hold, how large it is."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html.parser
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddrank.errors import InputError
from ddrank.leaderboard import Ranking, page
from ddrank.leaderboard.about import About
from ddrank.leaderboard.collect import Run, collect
from ddrank.leaderboard.page import build, content
from ddrank.result import Arm, Result
from ddrank.score import ARMS

METHODS = {  # HLR-like weaknesses and IOR-like strengths, so that the order depends on w; how they label
    "dm": (0.62, 0.62, "hard"),
    "dsa": (0.60, 0.63, "hard"),
    "mtt": (0.58, 0.66, "hard"),
    "datm": (0.50, 0.70, "single"),
    "sre2l": (0.36, 0.58, "multi"),
    "rded": (0.42, 0.64, "multi"),
    "random": (0.52, 0.52, "hard"),
    "noise": (0.12, 0.30, "hard"),
}
HOSTILE = ("<script>document.title='owned'</script>", "<img src=x onerror=alert(1)>{{configs}} & '\"")


def runs(methods=METHODS, ipcs=(1, 10), models=("convnet3", "mlp"), seeds=5) -> list[Result]:
    """Results of simulated accuracies, in five-hundredths as those of a test set; what one recipe shares is shared."""
    generator = np.random.default_rng(7)
    found = []
    for ipc in ipcs:
        for model in models:
            lift = 0.08 * (ipc > 1) - 0.05 * (model == "mlp")
            shared = {"real_hard": drawn(generator, 0.95, seeds), "rdm_any": drawn(generator, 0.52 + lift, seeds)}
            for number, (method, (hard, own, labels)) in enumerate(methods.items()):
                means = (0, hard + lift, own + lift, 0, own + lift - 0.04, 0.48 + lift)
                arms = {arm: drawn(generator, mean, seeds) for arm, mean in zip(ARMS, means, strict=True)} | shared
                found.append(
                    Result(
                        method=method,
                        dataset="digits",
                        ipc=ipc,
                        model=model,
                        aug="dsa",
                        criterion="ce",
                        labels=labels,
                        protocol="strict",
                        seeds=list(range(seeds)),
                        arms={arm: Arm(values, [0.01] * seeds) for arm, values in arms.items()},
                        w=0.5,
                        g=0.5,
                        distilled={"path": f"distilled/{number}/ipc{ipc}.pt", "sha256": f"{100 * ipc + number:064x}"},
                        environment={"device": "cpu"},
                        config={"method": {"name": method, "labels": labels}, "ipc": ipc, "model": {"name": model}},
                    )
                )
    return found


def drawn(generator: np.random.Generator, mean: float, seeds: int) -> list[float]:
    return (np.round(np.clip(generator.normal(mean, 0.012, seeds), 0, 1) * 500) / 500).tolist()


def saved(folder: Path, results: list[Result]) -> Path:
    for number, result in enumerate(results):
        result.save(folder / str(number) / "result.json")
    return folder


def ranked(results: list[Result], **about) -> Ranking:
    return Ranking.of([Run(result, (Path("result.json"),), About(**about)) for result in results])


def told(text: str, name: str = "content"):
    """What a page's JSON of this id holds."""
    return json.loads(re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', text)[1])


def png(size=(600, 300), colour="red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


class Elements(html.parser.HTMLParser):
    """The tags of a page and their attributes, and the texts of its scripts and styles."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inside: list[tuple[str, str]] = []
        self.within = False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.within = tag in ("script", "style")
        if self.within:
            self.inside.append((tag + (dict(attributes).get("type") or ""), ""))

    def handle_endtag(self, tag):
        self.within = False

    def handle_data(self, data):
        if self.within:
            kind, before = self.inside[-1]
            self.inside[-1] = (kind, before + data)


@pytest.fixture(scope="module")
def text() -> str:
    return page.to_html(ranked([*runs(ipcs=(1,)), *runs(dict.fromkeys(HOSTILE, (0.5, 0.5, "hard")), ipcs=(50,))]))


def test_it_is_one_small_file_that_names_nothing_elsewhere(text):
    assert len(text.encode()) < 3_000_000
    for tag, attributes in Elements(text).tags:
        assert tag not in ("iframe", "object", "embed", "base")
        for name in ("src", "href", "action", "srcset"):
            assert (attributes.get(name) or "#").startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") or name == "style" for name in attributes), (tag, attributes)
    styles = [inside for kind, inside in Elements(text).inside if kind == "style"]
    assert not re.search(r"url\(|@import|https?:", "".join(styles))


def test_its_policy_allows_its_own_scripts_and_style_and_nothing_else(text):
    elements = Elements(text)
    (policy,) = (attributes["content"] for _, attributes in elements.tags if "http-equiv" in attributes)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for kind in ("script", "style"):
        texts = [inside for found, inside in elements.inside if found == kind]
        hashes = {base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() for inside in texts}
        assert set(rules[f"{kind}-src"].split()) == {f"'sha256-{found}'" for found in hashes}
        assert len(texts) == (2 if kind == "script" else 1)


def test_names_end_no_script_and_come_back_as_they_were(text):
    names = {entry["name"] for group in told(text)["groups"] for entry in group["entries"]}
    assert names == {*METHODS, *HOSTILE}
    assert "<script>document" not in text
    assert "<img src=x" not in text


@pytest.mark.parametrize("value", ["</script>", "<!--", "&lt;", "\u2028\u2029", "{{policy}}", "\ud800", "é漢"])
def test_any_text_can_be_embedded(value):
    embedded = build.embedded({value: [value]})
    assert json.loads(embedded) == {value: [value]}
    assert not set("<>&\u2028\u2029") & set(embedded)
    embedded.encode()


def test_it_holds_every_accuracy_as_it_was_measured(text):
    by_key = {(result.method, result.ipc, result.model): result for result in runs(ipcs=(1,))}
    seen = 0
    for group in told(text)["groups"]:
        for entry in group["entries"]:
            result = by_key.get((entry["method"], group["ipc"], group["model"]))
            if result:
                assert {name: arm["accuracy"] for name, arm in entry["arms"].items()} == {
                    name: arm.accuracy for name, arm in result.arms.items()
                }
                assert entry["seeds"] == result.seeds
                seen += 1
    assert seen == len(by_key)


def test_it_holds_every_configuration_once(text):
    packed = re.search(r'id="configs">(.*?)</script>', text)[1]
    configs = json.loads(gzip.decompress(base64.b64decode(packed)))
    for group in told(text)["groups"]:
        for entry in group["entries"]:
            found = configs[entry["config"]]
            assert found["config"]["method"]["name"] == entry["method"]
            assert found["environment"] == {"device": "cpu"}
    alike = [result for result in runs(ipcs=(1,), models=("mlp",))] * 2
    assert len(content.configurations(ranked(alike))) == len(METHODS)


def test_what_seeds_say_is_that_of_the_ranking_at_each_weight():
    ranking = ranked(runs(models=("mlp",)))
    for place, group in enumerate(content.content(ranking)["groups"]):
        names = [entry["name"] for entry in group["entries"]]
        assert [surety["w"] for surety in group["surety"]] == [step / 20 for step in range(21)]
        for surety in group["surety"][::5]:
            again = {entry.name: entry for entry in ranking.at(w=surety["w"]).groups[place].entries}
            for index, name in enumerate(names):
                assert (surety["low"][index], surety["high"][index]) == again[name].places
                assert surety["first"][index] == pytest.approx(again[name].first, abs=1e-6)
                assert bool(surety["tied"][index]) == again[name].tied


def test_of_a_large_group_ranks_are_known_at_the_rankings_weight_alone():
    many = {f"method{number}": (0.4, 0.6, "hard") for number in range(60)}
    ranking = ranked(runs(many, ipcs=(1,), models=("mlp",), seeds=2)).at(w=0.3)
    (group,) = content.content(ranking)["groups"]
    assert [surety["w"] for surety in group["surety"]] == [0.3]


class TestPictures:
    def test_that_of_the_entry_comes_first_then_that_of_its_run(self, tmp_path):
        first, second, *_ = runs(ipcs=(1,), models=("mlp",))
        saved(tmp_path, [first, second])
        for number in (0, 1):
            (tmp_path / str(number) / "images.png").write_bytes(png(colour="blue"))
        found, _ = collect([tmp_path])
        given = [Run(run.result, run.files, About(grid=png() if run.result == first else b"")) for run in found]
        pictures = told(page.to_html(Ranking.of(given)), "pictures")
        assert middle(pictures[first.distilled["sha256"]]) == pytest.approx((254, 0, 0), abs=4)
        assert middle(pictures[second.distilled["sha256"]]) == pytest.approx((0, 0, 254), abs=4)

    def test_that_beside_the_data_is_shown_while_they_are_what_was_evaluated(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        made, changed, *_ = runs(ipcs=(1,), models=("mlp",))
        for result in (made, changed):
            data = Path(result.distilled["path"])
            data.parent.mkdir(parents=True)
            data.write_bytes(result.method.encode())
            data.with_name("grid.png").write_bytes(png())
        made.distilled["sha256"] = hashlib.sha256(made.method.encode()).hexdigest()
        assert set(told(page.to_html(ranked([made, changed])), "pictures")) == {made.distilled["sha256"]}

    def test_one_that_cannot_be_read_is_said(self, tmp_path):
        saved(tmp_path, runs(ipcs=(1,), models=("mlp",)))
        (tmp_path / "0" / "images.png").write_bytes(png()[:60])
        (tmp_path / "broken").mkdir()
        (tmp_path / "broken" / "result.json").write_text("{")
        text = page.to_html(Ranking.from_runs([tmp_path]))
        assert tmp_path.name not in text
        (sentence,) = told(text)["left_out"]
        assert sentence.startswith("The picture 0/images.png cannot be shown (")
        assert told(text, "pictures") == {}

    def test_they_shrink_and_then_are_left_out_to_keep_the_page_small(self, monkeypatch):
        noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(noise).save(file, "PNG")
        monkeypatch.setattr(content, "PARTS", ())
        ranking = ranked(runs(ipcs=(1,), models=("mlp",)), grid=file.getvalue())
        bare = len(page.to_html(ranked(runs(ipcs=(1,), models=("mlp",)))).encode())
        sizes = []
        for room in (4_000_000, 300_000, 5_000):
            monkeypatch.setattr(build, "MOST_BYTES", bare + room)
            text = page.to_html(ranking)
            assert len(text.encode()) <= bare + room
            pictures = told(text, "pictures")
            sizes.append(max((opened(picture).width for picture in pictures.values()), default=0))
            assert any("Pictures" in sentence for sentence in told(text)["left_out"]) == (not pictures)
        assert sizes[0] == 400 > sizes[1] > sizes[2] == 0


def test_configurations_are_left_out_before_it_becomes_too_large_and_then_it_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(content, "PARTS", ())
    ranking = ranked(runs())
    whole = page.to_html(ranking)
    packed = len(re.search(r'id="configs">(.*?)</script>', whole)[1])
    monkeypatch.setattr(build, "MOST_BYTES", len(whole.encode()) - packed + 1000 + packed // 2)
    text = page.to_html(ranking)
    assert 'id="configs"></script>' in text
    assert any("Configurations are left out" in sentence for sentence in told(text)["left_out"])
    monkeypatch.setattr(build, "MOST_BYTES", len(whole.encode()) // 2)
    with pytest.raises(InputError, match="a page of 32 entries would be larger than 3 MB"):
        page.write(ranking, tmp_path)
    assert list(tmp_path.iterdir()) == []


def opened(picture: str) -> Image.Image:
    head, _, content = picture.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def middle(picture: str) -> tuple[int, ...]:
    image = opened(picture).convert("RGB")
    return image.getpixel((image.width // 2, image.height // 2))
