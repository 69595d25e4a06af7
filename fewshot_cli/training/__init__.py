"""Pre-training, meta-training and SFC fine-tuning."""
