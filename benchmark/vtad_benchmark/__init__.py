"""vtad_benchmark: how well the presets detect beside what a user could pick instead, and beside published figures."""
