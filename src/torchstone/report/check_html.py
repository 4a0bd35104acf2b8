"""A check report as one HTML file: verdict, every check with its evidence, and where in the model it failed.

Draws a `torchstone.check/1` dict. Names come from strangers' models; each goes through `page.text`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from torchstone.report import page
from torchstone.report.check_pictures import DRAWN, pictures
from torchstone.report.numbers import duration, number
from torchstone.report.page import text

_FACTS = ("target", "class", "task", "parameters", "vocab_size", "vocab_size_source", "fingerprint")
_WORDS = ("fail", "error", "warn", "pass", "skip")


def check_html(report: dict[str, Any], modules: Sequence[str] | None = None) -> str:
    """The page; `modules` are the dotted names of the model's modules, in order, if the caller knows them."""
    model, checks = report["model"], report["checks"]
    title = f"{model.get('class') or model.get('target') or 'model'}: {report['verdict']}"
    counts = Counter(check["status"] for check in checks)
    tally = ", ".join(f"{counts[word]} {word}" for word in _WORDS if counts[word]) or "nothing ran"
    body = [
        f"<h1>{page.status(report['verdict'])} {text(model.get('class') or model.get('target'))}</h1>",
        f'<p class="soft">{text(tally)} in {duration(report["seconds"])}, seed {text(report["seed"])}, '
        f"torchstone {text(report['torchstone'])}</p>",
        page.facts(
            (name.replace("_", " "), _shown(model[name])) for name in _FACTS if model.get(name) is not None
        ),
        page.table(("status", "check", "finding", "measured", "limit"), map(_row, checks), caption="Checks"),
        pictures(checks),
        _tree(checks, model.get("modules") if modules is None else modules),
        _signature(model.get("signature")),
    ]
    return page.page(title, "\n".join(part for part in body if part))


def _row(check: dict[str, Any]) -> Iterable[str]:
    yield page.status(check["status"])
    yield f"<code>{text(check['id'])}</code><br><span class='soft'>tier {text(check['tier'])}</span>"
    yield _finding(check)
    yield text(
        number(check.get("measured")) + (f" {check['unit']}" if _said(check, "measured", "unit") else "")
    )
    yield text(number(check.get("limit")))


def _finding(check: dict[str, Any]) -> str:
    parts = [text(check["summary"])]
    if check.get("module"):
        parts.append(f"<br>in <code>{text(check['module'])}</code>")
    if check.get("why"):
        parts.append(f"<br><span class='soft'>because: {text(check['why'])}</span>")
    if check.get("hint"):
        parts.append(f"<br><strong>To do:</strong> {text(check['hint'])}")
    if check.get("details"):
        told = {name: value for name, value in check["details"].items() if name not in DRAWN}
        evidence = json.dumps(told, indent=1, ensure_ascii=False, default=str)
        parts.append(f"<details><summary>evidence</summary><pre>{text(evidence)}</pre></details>")
    return "".join(parts)


def _tree(checks: Sequence[dict[str, Any]], modules: Sequence[str] | None) -> str:
    """The module tree with the guilty ones marked; without one, only the paths that lead to them."""
    guilt: dict[str, list[str]] = {}
    for check in checks:
        if check.get("module") and check["status"] in ("fail", "warn"):
            guilt.setdefault(check["module"], []).append(check["id"])
    names = [*(modules or ()), *guilt]
    if not names:
        return ""
    tree: dict[str, Any] = {}
    for name in names:
        branch = tree
        for part in name.split("."):
            branch = branch.setdefault(part, {})
    return f'<h2>Where in the model</h2><ul class="tree">{"".join(_branches(tree, "", guilt))}</ul>'


def _branches(tree: dict[str, Any], above: str, guilt: dict[str, list[str]]) -> Iterable[str]:
    for part, below in tree.items():
        name = f"{above}{part}"
        charges = guilt.get(name)
        mark = f' class="guilty"><code>{text(part)}</code> {text(", ".join(charges))}' if charges else None
        yield f"<li{mark}" if mark else f"<li><code>{text(part)}</code>"
        if below:
            yield f"<ul>{''.join(_branches(below, f'{name}.', guilt))}</ul>"
        yield "</li>"


def _signature(signature: Any) -> str:
    if not signature:
        return ""
    shown = json.dumps(signature, indent=1, ensure_ascii=False, default=str)
    return f"<h2>Arguments of forward</h2><pre>{text(shown)}</pre>"


def _shown(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else str(value)


def _said(check: dict[str, Any], *names: str) -> bool:
    return all(check.get(name) is not None for name in names)
