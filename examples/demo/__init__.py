"""The parts of the demo model: its corpus, its tokenizer, its training and its evaluation."""
