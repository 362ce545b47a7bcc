"""``python -m edgedet``, and what torchrun starts."""

from edgedet.cli import main

if __name__ == "__main__":
    main()
