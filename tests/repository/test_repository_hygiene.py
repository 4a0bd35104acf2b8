"""What the repository promises about itself: links lead somewhere, files stay readable, no machine paths."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *patterns], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in tracked("*.md"):
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken


def test_no_room_lacks_a_job_in_its_name() -> None:
    vague = re.compile(r"(^|/)(utils|helpers|common|misc|core)(\.py$|/)")
    assert not [path for path in tracked("src") if vague.search(str(path.relative_to(ROOT)))]


def test_files_hold_one_idea() -> None:
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in tracked("src/*.py")}
    assert not {name: lines for name, lines in long.items() if lines > 500}


def test_room_configuration_and_doors_import_no_torch() -> None:
    doors = [*ROOT.glob("src/torchstone/*/__init__.py"), *ROOT.glob("src/torchstone/*/config.py")]
    assert len(doors) > 10
    for door in doors:
        assert not re.search(r"^(import|from) (torch|numpy)\b", door.read_text(), re.MULTILINE), door


def test_commands_in_the_readme_exist() -> None:
    from torchstone.cli.main import COMMANDS

    named = set(re.findall(r"^torchstone ([a-z]+)", (ROOT / "README.md").read_text(), re.MULTILINE))
    assert named and named <= set(COMMANDS)
