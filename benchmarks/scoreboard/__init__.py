"""The zoo's scoreboard: what each detector costs, and how it goes to each target. Run by benchmarks/zoo.py."""
