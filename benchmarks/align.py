"""A training step of the head `align`, whole and in pieces, beside the same computation on one batched tensor.

    python benchmarks/align.py [--channels 64] [--side 10] [--episodes 4] [--rounds 7] [--device cpu|cuda] [--threads N]

Forward and backward of 5-way 1-shot episodes with 15 queries per class, in turns; the plain version repeats maps for
every pair, puts support and query side by side for the offsets, and keeps everything for the gradient.
"""

import argparse
import json

import torch
import torch.nn.functional as F
from turns import in_turn

from fewshot_cli import registry
from fewshot_cli.runtime import runs
from fewshot_cli.runtime.device import resolve

WAY, QUERY = 5, 15


def plain(head, support, query):
    """Logits of the full head at one shot, every pair at once, without an index or a shared convolution."""
    (episodes, way), q = support.shape[:2], query.shape[1]
    maps = head.foreground(torch.cat([support.flatten(1, 2), query], 1).flatten(0, 1)).unflatten(0, (episodes, -1))
    keys = head.correspondence.embed(maps.flatten(0, 1)).unflatten(0, (episodes, -1))

    def pairs(x):
        sides = x[:, None, :way].expand(-1, q, -1, -1, -1, -1), x[:, way:, None].expand(-1, -1, way, -1, -1, -1)
        return [side.flatten(0, 2) for side in sides]

    (s, t), (ks, kt) = pairs(maps), pairs(keys)
    correlation = F.normalize(kt.flatten(2), dim=1).mT @ F.normalize(ks.flatten(2), dim=1)
    carried = (s.flatten(2) @ correlation.softmax(2).mT).view_as(s)
    predict, both = head.offsets, torch.cat([carried, t], 1)
    first = F.conv2d(both, torch.cat([predict.support.weight, predict.query.weight], 1), padding=1)
    shift = predict.last(F.relu(predict.norms[1](predict.middle(F.relu(predict.norms[0](first)))))).tanh()
    axes = [torch.linspace(-1, 1, n, device=s.device) for n in s.shape[2:]]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], -1) + shift.permute(0, 2, 3, 1)
    moved = F.grid_sample(carried, grid, align_corners=True)
    distance = (moved - t).square().sum(1).mean((1, 2))
    return -head.scale * distance.view(episodes, q, way)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, value in (("channels", 64), ("side", 10), ("episodes", 4), ("rounds", 7), ("threads", 0)):
        words.add_argument(f"--{name}", type=int, default=value)
    words.add_argument("--device", default="auto")
    given = words.parse_args()
    device = resolve(given.device)
    if given.threads:
        torch.set_num_threads(given.threads)
    shape = (given.channels, given.side, given.side)
    support = torch.rand(given.episodes, WAY, 1, *shape, device=device).requires_grad_()
    query = torch.rand(given.episodes, WAY * QUERY, *shape, device=device).requires_grad_()
    cls, count = registry.head("align"), given.episodes * WAY * QUERY * WAY
    whole, pieces = (cls(cls.Options(chunk=n), channels=given.channels).to(device) for n in (None, -(-count // 4)))
    pieces.load_state_dict(whole.state_dict())
    cases = {
        "plain": lambda: plain(whole, support, query),
        "align": lambda: whole(support, query),
        "four_pieces": lambda: pieces(support, query),
    }
    logits = [work().detach() for work in cases.values()]
    off = max(float((x - logits[0]).abs().max() / logits[0].abs().max()) for x in logits[1:])
    steps = {name: lambda work=work: work().square().mean().backward() for name, work in cases.items()}
    middle = in_turn(steps, given.rounds, device)
    print(
        json.dumps(
            {
                "device": str(device),
                "threads": torch.get_num_threads(),
                "pairs": count,
                "largest_difference": off,
                "plain_seconds": middle["plain"],
                "align_over_plain": middle["align"] / middle["plain"],
                "four_pieces_over_plain": middle["four_pieces"] / middle["plain"],
                "versions": runs.versions(),
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
