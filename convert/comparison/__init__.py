"""How two checkpoints differ, and what each difference means."""
