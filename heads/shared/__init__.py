"""What several heads share: local features, clusters, batches of fine-tuning."""
