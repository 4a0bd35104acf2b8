"""A publication for people: one HTML page without network, and Markdown for a repository or a paper."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from torchstone.report import page
from torchstone.report.figure_file import inline_pictures
from torchstone.report.inert import inert
from torchstone.report.numbers import number
from torchstone.report.page import text
from torchstone.study.claim.findings import Finding, words
from torchstone.study.claim.picture import comparison_figure, described
from torchstone.study.claim.publication import Publication, told_fact, varied_settings
from torchstone.study.claim.recorded import FACTS
from torchstone.study.claim.verdict import HOLDS, REFUSED

NOT_SHOWN = ("value", "status", "invalid")
"""Facts that have a place of their own."""


def html_page(publication: Publication, sha256: str) -> str:
    """`sha256` is of the content that this page shows."""
    one, arms = publication, [arm.name for arm in publication.arms]
    parts = [
        f"<h1>{text(one.claim.title)}</h1>",
        f'<p><span class="status {_colour(one.verdict)}">{text(one.verdict)}</span> {text(one.why)}</p>',
        page.facts(_summary(one)),
        _findings_html("Confounders", one.confounders),
        inline_pictures(lambda theme: comparison_figure(one, theme), described(one)),
        page.table(
            _COMPARISON, ([text(cell) for cell in row] for row in _comparisons(one)), caption="Comparisons"
        )
        if one.judged
        else "",
        _findings_html("Limits", one.limits),
        page.table(
            ("fact", *arms),
            (map(_fact_html, row) for row in _facts(one)),
            caption="What the arms are",
        ),
        page.table(_RUNS, ([text(cell) for cell in row] for row in _runs(one)), caption="Runs"),
        page.table(
            _HISTORY, ([text(cell) for cell in row] for row in _history(one)), caption="Earlier verdicts"
        )
        if one.history
        else "",
        f"<h2>The claim</h2><pre>{text(one.claim.text)}</pre>",
        f'<p class="soft">content sha256 <code>{text(sha256)}</code>; made {text(one.created)}; to check: '
        "<code>torchstone publish --verify</code> with the folder of this page</p>",
    ]
    return page.page(f"{one.verdict}: {one.claim.title}", "\n".join(part for part in parts if part))


def _fact_html(cell: str) -> str:
    """A hash may be broken anywhere, a word may not."""
    return f"<code>{text(cell)}</code>" if len(cell) > 24 and " " not in cell else text(cell)


def markdown_page(publication: Publication, sha256: str, picture: Path | None) -> str:
    one, arms = publication, [arm.name for arm in publication.arms]
    lines = [f"# {_md(one.claim.title)}", "", f"**{one.verdict}**: {_md(one.why)}", ""]
    lines += [f"- {name}: {_md(value)}" for name, value in _summary(one)]
    lines += _findings_md("Confounders", one.confounders)
    if picture is not None:
        lines += ["", f"![{_md(described(one))}]({picture.name})"]
    if one.judged:
        lines += ["", "## Comparisons", "", *_table_md(_COMPARISON, _comparisons(one))]
    lines += _findings_md("Limits", one.limits)
    lines += ["", "## What the arms are", "", *_table_md(("fact", *arms), _facts(one))]
    lines += ["", "## Runs", "", *_table_md(_RUNS, _runs(one))]
    if one.history:
        lines += ["", "## Earlier verdicts", "", *_table_md(_HISTORY, _history(one))]
    longest = max((len(each) for each in re.findall("`+", one.claim.text)), default=0)
    fence = "`" * max(3, longest + 1)
    lines += ["", "## The claim", "", f"{fence}toml", one.claim.text.rstrip(), fence]
    check = "to check: `torchstone publish --verify` with this folder"
    lines += ["", f"Content sha256 `{sha256}`; made {one.created}; {check}.", ""]
    return "\n".join(lines)


# --- what both show -----------------------------------------------------------------------------

_COMPARISON = (
    "candidate",
    "verdict",
    "effect",
    "interval",
    "seeds",
    "test",
    "p (gain)",
    "p (size)",
    "seeds needed",
)
_RUNS = ("arm", "run", "seed", "value", "status", "commit", "record")
_HISTORY = ("made", "verdict", "content sha256")


def _summary(one: Publication) -> list[tuple[str, str]]:
    claim = one.claim
    rows = [
        ("metric", f"{claim.metric}, {claim.direction} is better, at the {claim.at}"),
        ("claimed effect", str(claim.size)),
        ("equal", claim.budget),
        ("varied on purpose", ", ".join(claim.varies) or "not said"),
    ]
    if claim.ignores:
        rows.append(("ignored", "; ".join(f"{key}: {why}" for key, why in claim.ignores.items())))
    if one.judged:
        rows.append(("confidence", f"{100 * claim.confidence:g} %, for all candidates together"))
    return rows


def _comparisons(one: Publication) -> list[tuple[str, ...]]:
    return [
        (
            each.candidate,
            each.verdict,
            one.told(each.effect),
            f"{one.told(each.interval[0])} to {one.told(each.interval[1])}",
            " and ".join(dict.fromkeys(map(str, each.seeds))),
            "paired t" if each.paired else "Welch t",
            number(each.p_direction, 3),
            number(each.p_size, 3),
            "" if each.needed_seeds is None else str(each.needed_seeds),
        )
        for each in one.judged
    ]


def _facts(one: Publication) -> list[tuple[str, ...]]:
    """What is varied on purpose, then every fact that was stated."""
    rows = [(key, *told) for key, told in varied_settings(one).items()]
    rows += [(words(name), *told_fact(one.arms, name)) for name in FACTS if name not in NOT_SHOWN]
    return [row for row in rows if set(row[1:]) != {"not recorded"}]


def _runs(one: Publication) -> list[tuple[str, ...]]:
    return [
        (
            arm.name,
            run.run_id,
            number(run.get("seed")),
            number(run.get("value"), 6),
            f"invalid: {run.get('invalid')}" if run.get("invalid") else str(run.get("status")),
            str(run.get("commit") or "")[:12],
            run.digest[:12],
        )
        for arm in one.arms
        for run in arm.runs
    ]


def _history(one: Publication) -> list[tuple[str, ...]]:
    return [(str(each["created"]), str(each["verdict"]), str(each["sha256"])[:16]) for each in one.history]


def _colour(verdict: str) -> str:
    """The class of a status that has the colour."""
    if verdict in HOLDS:
        return "pass" if verdict == HOLDS[0] else "warn"
    return "fail" if verdict == REFUSED else "error"


# --- HTML and Markdown --------------------------------------------------------------------------


def _findings_html(title: str, findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    items = "".join(
        f"<li><b>{text(each.name)}</b> ({text(', '.join(each.arms))}): {text(each.what)}"
        + (f' <span class="soft">{text(each.fix)}</span>' if each.fix else "")
        + "</li>"
        for each in findings
    )
    return f"<h2>{text(title)}</h2><ul>{items}</ul>"


def _findings_md(title: str, findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return []
    items = [
        f"- **{each.name}** ({_md(', '.join(each.arms))}): {_md(each.what)}"
        + (f" ({_md(each.fix)})" if each.fix else "")
        for each in findings
    ]
    return ["", f"## {title}", "", *items]


def _table_md(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [header, ["---"] * len(header), *rows]
    return [f"| {' | '.join(_md(cell) for cell in line)} |" for line in lines]


def _md(value: str) -> str:
    """Names from strangers stay text: no markup, no cells, no lines of their own."""
    plain = inert(value).replace("\n", " ")
    for sign in "\\`*_[]<>|":
        plain = plain.replace(sign, f"\\{sign}")
    return plain
