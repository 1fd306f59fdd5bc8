"""The leaderboard's page in a browser (Chromium, through Playwright), as a reader uses it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from test_page import HOSTILE, png, ranked, runs, saved

from ddrank.leaderboard import Ranking, page
from ddrank.leaderboard.architectures import architectures
from ddrank.leaderboard.portable import portable

ROOT = Path(__file__).parents[1]
DIGITS_RUNS = Path(__file__).with_name("digits_runs.json.gz")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
METHODS = {"dc": "hard", "dsa": "hard", "dm": "hard", "mtt": "hard", "datm": "single"}
METHODS |= dict.fromkeys(("sre2l", "rded", "d4m"), "multi")
DESKTOP, PHONE = {"width": 1440, "height": 1000}, {"width": 390, "height": 844}
ROWS = """rows => rows.map(row => Object.fromEntries([...row.cells].map(cell => [
    cell.className, {text: cell.querySelector('.mean, button, strong')?.textContent ?? cell.childNodes[0]?.textContent,
                     small: cell.querySelector('small')?.textContent ?? '', bold: !!cell.querySelector('strong'),
                     all: cell.textContent}])))"""


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, CHROMIUM)), None)
    if path is None:
        sentence = "there is no Chromium: apt-get install chromium"
        pytest.fail(sentence) if os.environ.get("CI") else pytest.skip(sentence)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=path,
            args=list(OPTIONS),
            ignore_default_args=["--disable-ipc-flooding-protection"],  # readers' browsers have it
        )
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """8 methods x 2 IPCs x 2 models x 5 seeds, and two methods whose names would like to be markup; with the page.

    The runs are the results of `python -m ddrank.run -m method=dc,dsa,dm,mtt,datm,sre2l,rded,d4m ipc=1,10
    model=mlp,lenet train.epochs=60 train.step_size=30 dataset.real.epochs=3 'protocol.lrs=[0.01,0.05]' logger=none`,
    as a list: students of a few seconds, which are good for a page and for nothing else.
    """
    folder = tmp_path_factory.mktemp("page")
    for run in json.loads(gzip.decompress(DIGITS_RUNS.read_bytes())):
        file = folder / "runs" / f"{run['method']}-ipc{run['ipc']}-{run['model']}" / "result.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(run))
    hostile = runs(dict.fromkeys(HOSTILE, (0.55, 0.6, "hard")), ipcs=(50,), models=("mlp",))
    saved(folder / "runs", hostile)
    (folder / "runs" / "dm-ipc1-lenet" / "images.png").write_bytes(png())
    call = [sys.executable, "-m", "ddrank.leaderboard", "runs", "--out", "out", "--no-figures"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(call, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "written: out/index.html" in done.stdout
    return folder


@pytest.fixture(scope="module")
def ranking(folder) -> Ranking:
    return Ranking.from_runs([folder / "runs"])


@pytest.fixture
def visit(browser, folder) -> Iterator:
    """Open the page: visit("#w=0.3", viewport=PHONE, file=...). Whatever it says on the console, and whatever it asks
    of the network, fails the test."""
    said, asked, contexts = [], [], []

    def visit(address: str = "", file: Path | None = None, **context):
        contexts.append(browser.new_context(**{"viewport": DESKTOP, "reduced_motion": "reduce"} | context))
        tab = contexts[-1].new_page()
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: asked.append(request.url))
        tab.route(re.compile("^(?!file:|data:)"), lambda route: route.abort())
        file = file or folder / "out" / "index.html"
        tab.goto(f"{file.as_uri()}{address}")
        until(tab, "document.querySelectorAll('.chart svg').length === 3")
        return tab

    yield visit
    for context in contexts:
        context.close()
    assert said == []
    assert {url.partition("#")[0] for url in asked if not url.startswith("data:")} <= {
        file.as_uri() for file in folder.rglob("*.html")
    }


def until(tab, expression: str, *values) -> None:
    """Wait until an expression in the page is true. (Playwright's own waiting evaluates strings in the page, which its
    policy forbids.)"""
    for _ in range(500):
        if tab.evaluate(expression, *values):
            return
        tab.wait_for_timeout(20)
    pytest.fail(f"never true: {expression} {values}")


def table(tab) -> list[dict]:
    return tab.eval_on_selector_all("#body tr[data-id]", ROWS)


def names(tab) -> list[str]:
    return tab.locator("#body .name button span:last-child").all_text_contents()


def written(number: float, digits: int = 4) -> str:
    return f"{number:.{digits}f}".replace("-", "−")


def group_of(ranking: Ranking, ipc: int = 1, model: str = "lenet"):
    (group,) = (group for group in ranking.groups if (group.ipc, group.model) == (ipc, model))
    return group


def shows(tab, group, at: Ranking) -> None:
    """The table's order, ranks, scores, spreads, intervals and bold numbers are those of Python's."""
    again = group_of(at, group.ipc, group.model)
    found = table(tab)
    assert [row["name"]["text"] for row in found] == [entry.name for entry in again.entries]
    for row, entry in zip(found, again.entries, strict=True):
        assert row["rank"]["text"] == str(entry.rank)
        assert row["n"]["text"] == str(len(entry.result.seeds))
        assert row["accuracy"]["text"] == written(entry.accuracies["syn_any"].mean)
        for score, statistic in entry.scores.items():
            low, high = entry.interval(score)
            assert row[score]["text"] == f"{written(statistic.mean)} ± {written(statistic.std)}"
            assert row[score]["small"] == f"[{written(low)}, {written(high)}]"
            assert row[score]["bold"] == again.is_best(entry, score)


def test_moving_w_and_g_ranks_as_python_does(visit, ranking):
    tab = visit()
    group = group_of(ranking)
    shows(tab, group, ranking)
    orders = set()
    for w, g in ((0, 0), (0.13, 1), (0.37, 0.25), (0.5, 0.5), (0.81, 0.4), (1, 0.99)):
        tab.fill("#w-exact", str(w))
        tab.fill("#g-exact", str(g))
        shows(tab, group, ranking.at(w=w, g=g))
        orders.add(tuple(names(tab)))
    assert len(orders) > 2


def test_the_slider_moves_by_keyboard_and_says_what_it_does(visit, ranking):
    tab = visit()
    tab.focus("#w")
    for _ in range(7):
        tab.keyboard.press("ArrowRight")
    assert tab.input_value("#w-exact") == "0.57"
    shows(tab, group_of(ranking), ranking.at(w=0.57))
    first = group_of(ranking.at(w=0.57)).entries[0]
    said = f"At w = 0.57, first is {first.name} with DDRS {first.scores['ddrs'].mean:.4f}."
    until(tab, "said => document.getElementById('announcement').textContent.endsWith(said)", said)
    tab.keyboard.press("Home")
    shows(tab, group_of(ranking), ranking.at(w=0))
    tab.click("#reset")
    shows(tab, group_of(ranking), ranking)


def test_a_slider_that_moves_fast_loses_nothing(visit, ranking):
    tab = visit()
    tab.evaluate("""() => {
        const slider = document.getElementById('w');
        for (let step = 0; step < 300; step += 1) {
            slider.value = (7 * step % 101) / 100;
            slider.dispatchEvent(new Event('input', {bubbles: true}));
        }
    }""")
    assert tab.input_value("#w-exact") == "0.73"
    shows(tab, group_of(ranking), ranking.at(w=0.73))
    until(tab, "location.hash.includes('&w=0.73&')")
    shows(visit("#" + tab.url.partition("#")[2]), group_of(ranking), ranking.at(w=0.73))


def test_the_address_follows_the_weights_at_the_latest_when_it_is_needed(visit):
    def weight_in_address() -> str:
        return parse_qs(tab.evaluate("location.hash").removeprefix("#"))["w"][0]

    tab = visit()
    tab.evaluate("window.setTimeout = () => 0")
    tab.fill("#w-exact", "0.21")
    tab.click("#head .ior button")
    tab.fill("#w-exact", "0.34")
    assert weight_in_address() == "0.21"
    tab.evaluate("dispatchEvent(new Event('pagehide'))")
    assert weight_in_address() == "0.34"
    tab.locator("#w").click()
    assert weight_in_address() == tab.input_value("#w-exact") != "0.34"
    tab.go_back()
    assert weight_in_address() == tab.input_value("#w-exact") == "0.21"


def test_a_browser_that_refuses_addresses_still_ranks(visit, ranking):
    tab = visit()
    tab.evaluate("""() => {
        history.refused = 0;
        history.pushState = history.replaceState = () => {
            history.refused += 1;
            throw new DOMException('too often', 'SecurityError');
        };
    }""")
    tab.fill("#w-exact", "0.37")
    shows(tab, group_of(ranking), ranking.at(w=0.37))
    until(tab, "history.refused === 1")
    tab.click("#reset")
    shows(tab, group_of(ranking), ranking)


def test_what_seeds_say_is_shown_where_it_is_known_and_nowhere_else(visit, ranking):
    tab = visit("#w=0.85")
    entries = group_of(ranking.at(w=0.85)).entries
    for row, entry in zip(table(tab), entries, strict=True):
        low, high = entry.places
        assert row["places"]["all"] == (f"{low}" if low == high else f"{low}–{high}") + (" =" if entry.tied else "")
        assert row["first"]["text"] == f"{entry.first:.2f}"
    tab.fill("#w-exact", "0.83")
    assert {(row["places"]["all"], row["first"]["all"]) for row in table(tab)} == {("·", "·")}
    assert "known at every 0.05 of w, and not shown at another" in tab.text_content("#surety")
    tab.click("#surety button")
    assert tab.input_value("#w-exact") == "0.85"
    assert "·" not in {row["places"]["all"] for row in table(tab)}


def test_filters_choose_a_group_and_hide_entries(visit, ranking):
    tab = visit()
    tab.select_option("#ipc", "10")
    tab.select_option("#model", "mlp")
    assert tab.text_content("#title") == "digits, IPC 10, mlp, protocol strict"
    shows(tab, group_of(ranking, 10, "mlp"), ranking)
    before = {row["name"]["text"]: row["rank"]["text"] for row in table(tab)}
    tab.select_option("#labels", "multi")
    assert set(names(tab)) == {name for name, labels in METHODS.items() if labels == "multi"}
    assert all(before[row["name"]["text"]] == row["rank"]["text"] for row in table(tab))
    assert "3 shown; ranks are those among all 8" in tab.text_content("#summary")
    tab.select_option("#labels", "")
    tab.fill("#find", "D")
    assert set(names(tab)) == {name for name in METHODS if "d" in name}
    tab.fill("#find", "nothing of the kind")
    assert tab.text_content("#body") == "No entry fits the filters."
    tab.fill("#find", "")
    tab.select_option("#ipc", "50")  # where there is but one model
    assert tab.text_content("#title") == "digits, IPC 50, mlp, protocol strict"


DRAWN = """() => ['#plane .named_marks', '#plane .layer_2_marks', '#bump .layer_3_marks',
    '#arms .concat_0_layer_0_marks'].map(marks => document.querySelectorAll(marks + ' path').length)"""
EXTENTS = "() => ['plane', 'bump', 'arms'].map(chart => document.getElementById(`${chart}-extent`).textContent)"


def test_filters_hide_entries_from_the_charts_too(visit, ranking):
    at_one = group_of(ranking.at(w=1))
    weights = 12  # in the bump chart: plain accuracy and 11 w
    tab = visit()
    until(tab, f"String(({DRAWN})()) === '8,8,{8 * weights},8'")
    assert tab.evaluate(EXTENTS) == ["", "", ""]
    ticks = "() => [...document.querySelectorAll('#plane .role-axis-label text')].map(text => text.textContent)"
    before, tau = tab.evaluate(ticks), tab.text_content("#tau")
    tab.select_option("#labels", "multi")
    until(tab, f"String(({DRAWN})()) === '3,3,{3 * weights},3'")
    assert (tab.evaluate(ticks), tab.text_content("#tau")) == (before, tau)
    shown = "Shown: those that fit the filters, 3 of 8."
    order = "Lines are in order among themselves; their numbers are ranks among all 8."
    assert tab.evaluate(EXTENTS) == [shown, f"{shown} {order}", shown]
    ends = tab.locator("#bump text").all_text_contents()
    for name in names(tab):  # at the chart's right end, w = 1, with the rank among all
        rank = next(entry.rank for entry in at_one.entries if entry.name == name)
        assert f"{rank}  {name}" in ends
    tab.fill("#find", "nothing of the kind")
    until(tab, f"String(({DRAWN})().slice(0, 2)) === '0,0'")
    assert not tab.is_visible("#bump")
    assert not tab.is_visible("#arms")
    tab.fill("#find", "")
    tab.select_option("#labels", "")
    until(tab, f"String(({DRAWN})()) === '8,8,{8 * weights},8'")
    assert tab.is_visible("#arms")


def test_columns_sort_by_pointer_and_keyboard(visit, ranking):
    tab = visit()
    entries = group_of(ranking).entries
    for column, of in (("ddrs", None), ("ior", None), ("hlr", None), ("accuracy", "syn_any")):
        tab.click(f"#head .{column} button")
        value = {entry.name: (entry.accuracies[of] if of else entry.scores[column]).mean for entry in entries}
        best_first = sorted(value, key=value.get, reverse=column != "hlr")
        assert [value[name] for name in names(tab)] == [value[name] for name in best_first]
        assert tab.get_attribute(f"#head .{column}", "aria-sort") == ("ascending" if column == "hlr" else "descending")
        assert tab.locator("#head [aria-sort]").count() == 1
        tab.focus(f"#head .{column} button")
        tab.keyboard.press("Enter")
        assert [value[name] for name in names(tab)] == [value[name] for name in best_first[::-1]]
    tab.click("#head .name button")
    assert names(tab) == sorted(METHODS)
    until(tab, "document.getElementById('announcement').textContent.startsWith('Sorted by Method')")


def test_a_view_can_be_shared(visit):
    tab = visit()
    tab.select_option("#ipc", "10")
    tab.select_option("#labels", "hard")
    tab.fill("#w-exact", "0.73")
    tab.fill("#g-exact", "0.2")
    tab.click("#head .ior button")
    tab.click("#body .name button >> text=mtt")
    address = "#" + tab.url.partition("#")[2]
    assert {key: value for key, (value,) in parse_qs(address[1:]).items()} == {
        "dataset": "digits",
        "ipc": "10",
        "model": "lenet",
        "protocol": "strict",
        "w": "0.73",
        "g": "0.2",
        "labels": "hard",
        "sort": "-ior",
        "entry": "mtt",
    }
    other = visit(address)
    assert table(other) == table(tab)
    assert other.text_content("#title") == tab.text_content("#title")
    assert other.text_content("#entry h3") == "mtt"
    assert other.input_value("#w") == "0.73"
    tab.go_back()
    assert tab.locator("#entry").count() == 0
    tab.go_back()
    assert tab.locator("#head [aria-sort]").get_attribute("data-column") == "rank"
    tab.go_forward()
    tab.go_forward()
    assert table(tab) == table(other)


@pytest.mark.parametrize("address", ["#w=7&g=x&sort=-nonsense&entry=nobody&ipc=3", "#%", "#entry=__proto__&labels=no"])
def test_an_address_that_makes_no_sense_shows_the_ranking(visit, ranking, address):
    shows(visit(address), group_of(ranking), ranking)


def test_names_are_data_and_never_markup(visit):
    tab = visit("#ipc=50")
    assert set(names(tab)) == set(HOSTILE)
    for name in HOSTILE:
        tab.locator("#body .name button").nth(names(tab).index(name)).click()
        assert tab.text_content("#entry h3") == name
        assert name in parse_qs(tab.url.partition("#")[2])["entry"]
        tab.locator("#plane .named_marks path").last.hover()
        tab.wait_for_selector("#tooltip strong")
    tab.wait_for_timeout(100)
    assert tab.title() == "ddrank leaderboard"
    assert tab.locator("main script, main img, #tooltip script, #tooltip img").count() == 0


def test_table_and_charts_select_each_other(visit):
    tab = visit()
    raised = """[...document.querySelectorAll('#plane .named_marks path')].filter(
        path => path.getAttribute('stroke') === 'var(--ink)').length"""
    assert tab.evaluate(raised) == 0
    tab.click("#body .name button >> text=sre2l")
    until(tab, f"{raised} === 1")
    bold = """([chart, name]) => [...document.querySelectorAll(chart + ' text')].some(
        text => text.textContent.includes(name) && text.getAttribute('font-weight') === 'bold')"""
    for chart in ("#plane", "#bump", "#arms"):
        until(tab, bold, [chart, "sre2l"])
    tab.click("#bump text >> text=/^1 /")
    chosen = tab.text_content("#entry h3")
    assert f"1  {chosen}" == tab.text_content("#bump text >> text=/^1 /") != "1  sre2l"
    assert tab.text_content("#body tr.selected .name button") == chosen
    point = tab.locator("#plane .named_marks path").first  # the last in rank is drawn first
    point.hover()
    tab.wait_for_selector("#tooltip strong")
    pointed = re.sub(r"^\d+\. ", "", tab.text_content("#tooltip strong"))
    assert tab.text_content("#body tr.hovered .name button") == pointed
    point.click()
    assert tab.text_content("#entry h3") == pointed != chosen
    tab.focus("#body tr.selected button")
    tab.keyboard.press("Enter")
    assert tab.locator("#entry").count() == 0
    assert tab.evaluate("document.activeElement.textContent") == pointed  # the focus stays where it was


def test_a_chart_that_is_drawn_anew_under_the_pressed_button_still_selects(visit):
    tab = visit()
    tab.hover("#bump text >> text=/^1 /")
    until(tab, "document.querySelector('#bump path[stroke-width=\"4\"]') !== null")  # it has drawn what is hovered
    mark = tab.query_selector("#bump text >> text=/^1 /")
    tab.mouse.down()
    tab.dispatch_event("#body tr:last-child td", "pointerover")
    until(tab, "mark => !mark.isConnected", mark)
    assert tab.locator("#entry").count() == 0
    tab.mouse.up()
    until(tab, "document.querySelector('#entry h3') !== null")
    assert f"1  {tab.text_content('#entry h3')}" == mark.text_content()


def test_a_tap_on_a_chart_selects(visit):
    tab = visit(viewport=PHONE, has_touch=True, is_mobile=True)
    text = tab.text_content("#bump text >> text=/^2 /")
    tab.tap("#bump text >> text=/^2 /")
    until(tab, "document.querySelector('#entry h3') !== null")
    assert f"2  {tab.text_content('#entry h3')}" == text


def test_the_lines_of_equal_ddrs_and_the_mark_at_w_follow_the_slider(visit):
    tab = visit("#w=0")
    ends = """name => [...document.querySelector('#plane .mark-rule.role-mark').querySelectorAll('line')].map(
        line => Number(line.getAttribute(name) ?? 0))"""
    until(tab, f"({ends})('y2').length > 3")
    assert set(tab.evaluate(ends, "x2")) == {0}  # upright: at w = 0, IOR does not count
    assert 0 not in tab.evaluate(ends, "y2")
    tab.fill("#w-exact", "1")
    until(tab, f"({ends})('y2').every(y => y === 0)")
    assert 0 not in tab.evaluate(ends, "x2")
    assert "at w = 1" in tab.text_content("#tau")


def test_the_link_to_the_ranking_leaves_the_view_as_it_is(visit):
    tab = visit("#w=0.3&ipc=10")
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("location.hash") == "#table"
    assert tab.input_value("#w") == "0.3"
    assert "IPC 10" in tab.text_content("main h2")


def test_tau_is_that_of_the_sweep(visit, ranking):
    tab = visit("#w=0.3")
    tau = group_of(ranking).sweep.tau[30]
    assert f"is {written(tau, 2)} at w = 0.3" in tab.text_content("#tau")


def test_the_models_are_compared_as_python_does(visit, ranking):
    tab = visit("#ipc=10&w=0.29")
    (expected,) = (found for found in architectures(ranking.at(w=0.29)) if found.ipc == 10)
    rows = tab.eval_on_selector_all(
        "#architectures tbody tr", "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert rows == [
        [
            row.name,
            *map(written, row.models),
            written(row.mean),
            f"[{written(row.interval[0])}, {written(row.interval[1])}]",
            written(row.worst),
        ]
        for row in expected.rows
    ]


def test_an_entry_tells_all_that_is_known_of_it(visit, ranking, folder):
    tab = visit("#ipc=1&model=lenet&entry=dm")
    (entry,) = (entry for entry in group_of(ranking).entries if entry.name == "dm")
    details = tab.text_content("#entry")
    for text in (entry.result.distilled["sha256"], "dm-ipc1-lenet/result.json", "5 (0, 1, 2, 3, 4)", "dsa", "strict"):
        assert text in details
    for arm, statistic in entry.accuracies.items():
        row = tab.text_content(f"#entry tr:has(code:text-is('{arm}'))")
        assert written(statistic.mean) in row
        assert all(written(value) in row for value in statistic.per_seed)
    assert tab.evaluate("document.querySelector('#entry img').decode().then(() => true)")
    tab.click("#entry summary")
    until(tab, "document.querySelector('#entry pre').textContent")
    assert json.loads(tab.text_content("#entry pre"))["config"] == portable(entry.result).config


def test_links_lead_to_web_addresses_alone(visit, folder):
    page.write(
        ranked(runs(models=("mlp",)), paper="https://example.org/paper?a=1&b=2", code="javascript:alert(1)"),
        folder / "links",
    )
    tab = visit("#entry=dm", file=folder / "links" / "index.html")
    links = tab.eval_on_selector_all("#entry a", "all => all.map(a => [a.getAttribute('href'), a.rel])")
    assert links == [["https://example.org/paper?a=1&b=2", "noopener noreferrer"]]
    assert "javascript:alert(1)" in tab.text_content("#entry")


@pytest.mark.parametrize(
    "scheme, viewport", [("light", DESKTOP), ("dark", PHONE)], ids=["light, desktop", "dark, phone"]
)
def test_it_is_accessible(visit, scheme, viewport):
    from axe_playwright_python.sync_playwright import Axe

    tab = visit("#entry=mtt&w=0.52", color_scheme=scheme, viewport=viewport)
    tab.click("#entry summary")
    found = Axe().run(tab).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def test_on_a_phone_only_tables_are_wider_than_the_screen(visit):
    tab = visit("#entry=mtt", viewport=PHONE)
    assert tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert tab.evaluate("document.getElementById('table').scrollWidth") > PHONE["width"]
    assert tab.evaluate("document.querySelector('.entry').getBoundingClientRect().width") <= PHONE["width"]
    for chart in ("plane", "bump", "arms"):
        assert tab.evaluate(f"document.querySelector('#{chart} svg').getBoundingClientRect().right") <= PHONE["width"]


def test_in_print_it_is_black_on_white_and_without_controls(visit):
    tab = visit(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    words = "getComputedStyle(document.querySelector('#bump text')).fill"
    assert tab.evaluate(paper) == "rgb(20, 23, 27)"
    dark = tab.evaluate(words)
    tab.emulate_media(media="print", color_scheme="dark")
    assert tab.evaluate(paper) == "rgb(255, 255, 255)"
    assert tab.evaluate(words) != dark
    assert not tab.is_visible("#w")
    assert not tab.is_visible("#dataset")
    assert tab.is_visible("#body tr")


def test_of_many_entries_the_first_fifty_are_drawn(visit, folder):
    many = {f"method{number:03}": (0.3 + number / 1000, 0.6, "hard") for number in range(70)}
    ranking = ranked(runs(many, ipcs=(1,), models=("mlp",), seeds=2))
    page.write(ranking, folder / "many")
    tab = visit(file=folder / "many" / "index.html")
    assert tab.evaluate(EXTENTS)[::2] == ["Named: the best 16 of 70. Dots: the others.", "Shown: the best 12 of 70."]
    assert tab.evaluate(EXTENTS)[1].startswith("Shown: the best 16 of 70. Lines are in order among themselves")
    expected = [entry.name for entry in ranking.groups[0].entries]
    assert names(tab) == expected[:50]
    tab.click("text=Show all 70")
    assert names(tab) == expected
    last = visit(f"#entry={expected[-1]}", file=folder / "many" / "index.html")
    assert last.text_content("#entry h3") == expected[-1]
    assert last.evaluate(EXTENTS)[2] == "Shown: the best 12 of 70, and the selected one."
    last.fill("#find", "method05")
    until(
        last,
        f"({EXTENTS})()[1] === 'Shown: those that fit the filters, 10 of 70. Lines are in order among themselves; "
        "their numbers are ranks among all 70.'",
    )
