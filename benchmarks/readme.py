"""Draw the README's table from a file of result lines, and name that file: ``python benchmarks/readme.py RESULTS.jsonl``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from edgedet.bench import result, table

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- table -->", "<!-- /table -->"


def main(results: Path) -> None:
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    drawn = table.markdown(result.load(results))
    named = re.sub(r"benchmarks/results/[\w.-]+\.jsonl", f"benchmarks/results/{results.name}", after)
    README.write_text(f"{before}{BEGIN}\n{drawn}{END}{named}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
