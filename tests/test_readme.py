"""What the documents say is so: the commands run, the table is the one that was measured, the links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import fleet
import pytest
from typer.main import get_command

from edgedet import cli
from edgedet.bench import result, table

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("benchmarks/*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def walkthrough(document: Path = README) -> list[str]:
    """The commands of the block after ``<!-- session -->``, with continued lines joined."""
    text = document.read_text(encoding="utf-8").partition("<!-- session -->")[2]
    block = FENCE.search(text)
    assert block is not None, f"{document.name}: no fenced block after <!-- session -->"
    assert block[1] == "bash"
    joined = block[2].replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def test_the_walkthrough_is_six_commands():
    commands = walkthrough()
    assert [line.split()[1] for line in commands] == ["data", "train", "distill", "prune", "export", "bench"]
    assert all(line.startswith("edgedet ") for line in commands)


@pytest.mark.slow
@pytest.mark.parametrize("document", [README, ROOT / "docs/spai.md"], ids=lambda path: path.name)
def test_the_walkthrough_runs_as_it_is_written(document, tmp_path):
    pytest.importorskip("torch")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    environment |= {"EDGEDET_CACHE": str(tmp_path / "cache")}
    environment.pop("EDGEDET_DATA", None)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(walkthrough(document))],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"int8.*measured", done.stdout), "the last command ends with the table"


def test_the_table_is_the_one_that_was_measured():
    text = README.read_text(encoding="utf-8")
    shown = text.partition("<!-- table -->")[2].partition("<!-- /table -->")[0].strip()
    named = sorted(set(re.findall(r"benchmarks/results/[\w.-]+\.jsonl", text)), key=lambda name: name[-16:])
    assert bool(shown) == bool(named), "README.md has a table and names the file of its lines, or neither"
    if named:
        rows = result.load(ROOT / named[-1])
        assert shown == table.brief(fleet.fastest(rows)).strip()
        whole = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
        assert whole.partition(fleet.BEGIN)[2].partition(fleet.END)[0].strip() == table.markdown(rows).strip()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(path))
    local = [target.partition("#")[0] for target in targets if not re.match(r"\w+:", target) and not target.startswith("#")]
    missing = [target for target in local if not (path.parent / target).exists()]
    assert not missing, f"{path.name}: {missing}"


def commands() -> set[str]:
    """``train``, ``data scan`` ..., as the command line has them."""
    found: set[str] = set()
    for name, command in get_command(cli.app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}" for each in inner} if inner else {name}
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_that_is_named_exists(path):
    """In a fenced block a command begins a line; in prose it stands in backquotes."""
    text = path.read_text(encoding="utf-8")
    blocks = "\n".join(block[2] for block in FENCE.finditer(text))
    named = re.findall(r"^\s*edgedet (.*)$", blocks, re.MULTILINE) + re.findall(r"`edgedet ([^`]*)`", prose(path))
    known = commands()
    unknown = [words for words in named if not re.match(r"-", words) and not _names_one(words, known)]
    assert not unknown, f"{path.name}: {unknown}"


def _names_one(words: str, known: set[str]) -> bool:
    """Whether `words` begin with a command; alternatives as in ``models | recipes`` are each looked at."""
    first = [part.split() for part in words.split(" | ")]
    return all(part[0] in known or " ".join(part[:2]) in known or f"data {part[0]}" in known for part in first if part)
