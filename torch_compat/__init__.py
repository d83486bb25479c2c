"""What comes from the PyTorch and Hugging Face world: hub names, config.json, safetensors. Read without torch."""
