"""``python -m edgedet``, the command ``edgedet``, and what torchrun starts."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Its imports take seconds on a small device: Ctrl-C is one line then, too."""
    try:
        from edgedet.cli import main as run
    except KeyboardInterrupt:
        print("edgedet: interrupted", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
