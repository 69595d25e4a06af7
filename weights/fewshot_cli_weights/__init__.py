"""ResNet-12 weights for `fsl`, with the sidecars that say what made them."""
