"""Two images, an exported backbone, and DeepEMD's similarity of them: what a service that matches needs.

    fsl export --set head=emd -o backbone.onnx
    python examples/matching.py backbone.onnx one.jpg other.jpg

Beside fsl it needs onnxruntime; the constants of preprocessing are in the file.
"""

import json
import sys

import numpy as np
import onnxruntime
import torch
from PIL import Image

from fewshot_cli import transport
from fewshot_cli.config.parts import build_solver, default_solver

FLOOR = 1e-3  # the public code's: every node weighs something


def images_of(paths: list[str], spec: dict) -> np.ndarray:
    """The images as the backbone wants them: [N,3,size,size] from 0 to 1."""
    side, edge = spec["resize"], (spec["resize"] - spec["size"]) // 2
    how, out = Image.Resampling[spec["interpolation"].upper()], []
    for path in paths:
        pixels = np.asarray(Image.open(path).convert("RGB").resize((side, side), how))
        out.append(pixels[edge : edge + spec["size"], edge : edge + spec["size"]])
    return np.stack(out).transpose(0, 3, 1, 2).astype(np.float32) / 255


def similarity(left: np.ndarray, right: np.ndarray) -> float:
    """DeepEMD's similarity of two maps [d,h,w], from −1 to 1 (CVPR 2020, equations 1 to 9)."""
    u, v = (torch.from_numpy(x).flatten(1).T for x in (left, right))  # nodes [n,d]
    centred = [torch.nn.functional.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (u, v)]
    cosine = centred[0] @ centred[1].T
    supply, demand = (torch.relu(x @ y.mean(0)) + FLOOR for x, y in ((u, v), (v, u)))
    supply, demand = (x * (len(x) / x.sum()) for x in (supply, demand))
    solver = build_solver(default_solver())
    plan = transport.solve(solver, (1 - cosine)[None], supply[None], demand[None])
    return float((plan.flow[0] * cosine).sum() / supply.sum())


def main() -> None:
    """Print the similarity of two images."""
    model, *paths = sys.argv[1:]
    session = onnxruntime.InferenceSession(model)
    facts = session.get_modelmeta().custom_metadata_map
    maps = session.run(None, {"images": images_of(paths, json.loads(facts["fsl.image"]))})[0]
    print(f"{similarity(*maps):.4f}")


if __name__ == "__main__":
    main()
