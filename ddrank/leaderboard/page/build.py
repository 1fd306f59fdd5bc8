"""Puts the page together: template, style, scripts, charting library and content, small, under a strict policy."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from ddrank import atomic
from ddrank.errors import InputError
from ddrank.leaderboard.page.content import configurations, content
from ddrank.leaderboard.page.thumbnails import SIZES, originals, shrunk
from ddrank.leaderboard.rank import Ranking

FILE = "index.html"
MOST_BYTES = 2_900_000
VEGA_LITE = "6.4"
SCRIPTS = (  # one script, in this order
    *("scores", "state", "text", "table", "entry", "architectures"),
    *("charts", "plane", "bump", "arms", "page"),
)


def write(ranking: Ranking, folder: Path | str) -> Path:
    """Write the page of `ranking` as index.html into `folder`. Returns its path.

    Raises InputError when it cannot be written, or would not stay below 3 MB even without pictures and configurations.
    """
    return atomic.write_bytes(Path(folder) / FILE, to_html(ranking).encode())


def to_html(ranking: Ranking) -> str:
    """The page. Where it would become too large, pictures shrink or are left out, then configurations; it says so."""
    told, configs = content(ranking), _packed(configurations(ranking))
    found, sentences = originals(ranking)
    left_out = list(sentences)
    room = MOST_BYTES - len(_assembled(told, "", {}).encode()) - len(configs) - len(embedded(left_out).encode()) - 1000
    if room < 0:
        configs, room = "", room + len(configs)
        left_out.append("Configurations are left out, to keep this page small: they are in the result files.")
    if room < 0:
        entries = sum(len(group.entries) for group in ranking.groups)
        raise InputError(
            f"a page of {entries} entries would be larger than 3 MB: rank fewer runs at once, or say --no-page"
        )
    smaller = (shrunk(found, size) for size in SIZES)
    pictures = next((pictures for pictures in smaller if len(embedded(pictures)) <= room), {})
    if found and not pictures:
        left_out.append("Pictures of the distilled data are left out, to keep this page small.")
    return _assembled(told | {"left_out": left_out}, configs, pictures)


def _assembled(told: Mapping[str, Any], configs: str, pictures: Mapping[str, str]) -> str:
    style = _asset("page.css")
    script = "\n".join(["(() => {", '"use strict";', *(_asset(f"{name}.js") for name in SCRIPTS), "})();"])
    parts = {
        "policy": _policy(style, script, _charts()),
        "style": style,
        "script": script,
        "charts": _charts(),
        "content": embedded(told),
        "configs": configs,
        "pictures": embedded(pictures),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _asset("page.html"))


def embedded(value: Any) -> str:
    """`value` as JSON that may stand in a script element: nothing in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&\u2028\u2029\ud800-\udfff]", lambda found: f"\\u{ord(found[0]):04x}", text)


def _packed(value: Any) -> str:
    """JSON, compressed, in base64: configurations are long and alike."""
    raw = json.dumps(value, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(raw, mtime=0)).decode()


def _policy(style: str, *scripts: str) -> str:
    """The content security policy: this style and these scripts, pictures in the page itself, and nothing else."""
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _charts() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    script = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VEGA_LITE)
    return re.sub(r"<(?=/script|!--|script)", r"\\x3c", script, flags=re.IGNORECASE)  # they occur in strings only


@cache
def _asset(name: str) -> str:
    return files(__package__).joinpath("assets", name).read_text(encoding="utf-8").strip()
