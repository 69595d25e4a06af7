"""What is done with a user's own images: classify, retrieve, fine-tune."""
