"""The only training loop, its losses, schedules and distribution (needs torch)."""
