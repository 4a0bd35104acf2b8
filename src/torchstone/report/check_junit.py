"""A check report as JUnit XML, so that a build server shows each check as a test.

fail is a failure, error an error, skip a skipped test; warn passes, with its finding in `system-out`.
"""

from __future__ import annotations

from collections import Counter
from typing import Any
from xml.etree import ElementTree as xml

from torchstone.report.inert import inert


def check_junit(report: dict[str, Any]) -> str:
    """The document as text."""
    counts = Counter(check["status"] for check in report["checks"])
    totals = {
        "tests": str(len(report["checks"])),
        "failures": str(counts["fail"]),
        "errors": str(counts["error"]),
        "skipped": str(counts["skip"]),
        "time": f"{report['seconds']:.3f}",
    }
    suites = xml.Element("testsuites", totals)
    name = inert(report["model"].get("class") or report["model"].get("target") or "model")
    suite = xml.SubElement(suites, "testsuite", {"name": name, **totals})
    for check in report["checks"]:
        _case(suite, name, check)
    xml.indent(suites)
    return xml.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: xml.Element, name: str, check: dict[str, Any]) -> None:
    where = f"{name}.tier{check['tier']}"
    seconds = f"{check.get('seconds') or 0.0:.3f}"
    case = xml.SubElement(
        suite, "testcase", {"classname": where, "name": inert(check["id"]), "time": seconds}
    )
    status, summary = check["status"], inert(check["summary"])
    if status == "skip":
        xml.SubElement(case, "skipped", {"message": inert(check.get("why") or summary)})
    elif status in ("fail", "error"):
        tag = "failure" if status == "fail" else "error"
        xml.SubElement(case, tag, {"message": summary}).text = _told(check)
    elif status == "warn":
        xml.SubElement(case, "system-out").text = f"WARN {summary}\n{_told(check)}"


def _told(check: dict[str, Any]) -> str:
    lines = [f"{field}: {inert(check[field])}" for field in ("module", "why", "hint") if check.get(field)]
    if check.get("measured") is not None:
        unit = f" {check['unit']}" if check.get("unit") else ""
        lines.append(f"measured: {inert(check['measured'])}{inert(unit)} (limit {inert(check.get('limit'))})")
    return "\n".join(lines)
