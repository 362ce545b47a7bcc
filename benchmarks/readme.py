"""Draw the README's table from a file of result lines, and name that file: ``python benchmarks/readme.py RESULTS.jsonl``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import marks

from edgedet.bench import result, table

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- table -->", "<!-- /table -->"


def main(results: Path) -> None:
    marks.put(README, BEGIN, END, table.markdown(result.load(results)))
    shown, mark, after = README.read_text(encoding="utf-8").partition(END)
    named = re.sub(r"benchmarks/results/[\w.-]+\.jsonl", f"benchmarks/results/{results.name}", after)
    README.write_text(f"{shown}{mark}{named}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
