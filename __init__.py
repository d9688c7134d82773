"""g4convert: Hugging Face Gemma 4 checkpoints to MLX, converted, proven and published."""
