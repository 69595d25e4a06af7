"""From images to local features: crops, preprocessing, extractors, embedding and the feature cache."""
