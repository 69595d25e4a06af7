"""The structured fully connected layer of DeepEMD."""
