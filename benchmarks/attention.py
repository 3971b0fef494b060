"""Attention over crops of two sizes on a CPU: our back ends against other ways to do it.

    python benchmarks/attention.py

One layer, forward and backward, from queries, keys and values of all tokens laid end to end to the
output in the same order. Ways: `sdpa` and `plain` (one call per crop size); one call over local
crops padded to the global length, with a mask; one call over one long sequence with a dense
block-diagonal mask; nested tensors. Then a whole block, packed and one crop size after the other.
Then `plain` against `sdpa` over lengths: what the rule of ``model.attention=auto`` rests on.

Every ratio: CPU seconds of the way / those of `sdpa` in the same round; above 1 it is slower.
"""

import argparse
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from measuring import interleave, print_table, ratios, spread, start_clean
from recording import write_result

Shapes = Sequence[tuple[int, int]]

# name -> shapes of a batch of images, heads, channels of a head
LAYOUTS: dict[str, tuple[Shapes, int, int]] = {
    "ViT-S/14, 4 images": (((8, 257), (32, 50)), 6, 64),
    "ViT 128 x 4 on 32 pixels, 64 images": (((128, 17), (256, 5)), 4, 32),
}
LENGTHS = (5, 10, 17, 26, 32, 37, 50, 64, 82, 101, 145, 197, 257)
HEADS = ((4, 32), (6, 64))
TOKENS = 8192  # about, of every point of the rule


def main() -> None:
    start_clean()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write it to results/")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    figures: dict[str, Any] = {"rounds": args.rounds, "ways": {}, "block": {}, "rule": {}}
    for dtype in (torch.float32, torch.bfloat16):
        for name, (shapes, heads, channels) in LAYOUTS.items():
            where = f"{name}, {dtype}".replace("torch.", "")
            figures["ways"][where] = ways(shapes, heads, channels, dtype, args.rounds)
            figures["block"][where] = block(shapes, heads * channels, heads, dtype, args.rounds)
        for heads, channels in HEADS:
            where = f"{heads} heads of {channels}, {dtype}".replace("torch.", "")
            figures["rule"][where] = rule(heads, channels, dtype, args.rounds)
    show(figures)
    if args.record:
        print(write_result("attention", figures).name)


def ways(shapes: Shapes, heads: int, channels: int, dtype: Any, rounds: int) -> dict[str, Any]:
    """Time all ways on one layout; the largest difference from `sdpa` goes with each."""
    from dinoforge.models.attention import attend
    from dinoforge.models.attention_choice import relative_difference

    contestants: dict[str, Callable[[Any], Any]] = {
        "sdpa": partial(attend, shapes=shapes, backend="sdpa"),
        "plain": partial(attend, shapes=shapes, backend="plain"),
        "padded": partial(padded, **padding(shapes)),
        "dense mask": partial(dense_mask, seen=same_sequence(shapes)),
        "nested": partial(nested, starts=starts_of(shapes)),
    }
    tokens = sum(batch * length for batch, length in shapes)
    qkv, gradient = draw(tokens, heads, channels, dtype)
    runs = {name: partial(both_directions, way, qkv, gradient) for name, way in contestants.items()}
    seconds, results = interleave(runs, rounds + 1)
    return {
        name: {
            "cpu_ms": spread([1000 * s for s in seconds[name][1:]], 1),
            "ratio": ratios(seconds[name][1:], seconds["sdpa"][1:]),
            "difference": relative_difference(results[name], results["sdpa"]),
        }
        for name in contestants
    }


def both_directions(way: Callable[[Any], Any], qkv: Any, gradient: Any) -> list[Any]:
    import torch

    # Nested tensors warn that they are a prototype.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = way(qkv)
        return [out.detach(), *torch.autograd.grad(out, qkv, gradient)]


def draw(tokens: int, heads: int, channels: int, dtype: Any) -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn((tokens, 4, heads, channels), generator=generator).to(dtype)
    return drawn[:, :3].clone().requires_grad_(), drawn[:, 3].contiguous()


def starts_of(shapes: Shapes) -> Any:
    import torch

    from dinoforge.models.attention import cumulative_lengths

    return cumulative_lengths(shapes, torch.device("cpu"))


def numbers_of(shapes: Shapes) -> Any:
    """Number of the sequence of every token."""
    import torch

    lengths = starts_of(shapes).diff()
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths)


def same_sequence(shapes: Shapes) -> Any:
    numbers = numbers_of(shapes)
    return numbers[:, None] == numbers


def padding(shapes: Shapes) -> dict[str, Any]:
    import torch

    starts, numbers = starts_of(shapes), numbers_of(shapes)
    places = torch.arange(len(numbers)) - starts[numbers]
    lengths = starts.diff()
    seen = torch.arange(int(lengths.max())) < lengths[:, None]
    return {"numbers": numbers, "places": places, "seen": seen[:, None, None]}


def padded(qkv: Any, numbers: Any, places: Any, seen: Any) -> Any:
    import torch.nn.functional as F

    shape = (len(seen), seen.shape[-1], *qkv.shape[2:])
    q, k, v = (
        x.new_zeros(shape).index_put((numbers, places), x).transpose(1, 2) for x in qkv.unbind(1)
    )
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    return out.transpose(1, 2)[numbers, places]


def dense_mask(qkv: Any, seen: Any) -> Any:
    import torch.nn.functional as F

    q, k, v = qkv.permute(1, 2, 0, 3)[:, None].unbind(0)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)[0].transpose(0, 1)


def nested(qkv: Any, starts: Any) -> Any:
    import torch
    import torch.nn.functional as F

    q, k, v = (
        torch.nested.nested_tensor_from_jagged(x.contiguous(), starts.long()).transpose(1, 2)
        for x in qkv.unbind(1)
    )
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).values()


def block(shapes: Shapes, width: int, heads: int, dtype: Any, rounds: int) -> dict[str, Any]:
    """Time one transformer block, packed and one crop size after the other."""
    import torch

    from dinoforge.models.config import VitConfig
    from dinoforge.models.vit import build_vit

    config = VitConfig(width=width, heads=heads, depth=1, patch_size=14, image_size=28)
    one = build_vit(config).blocks[0]
    generator = torch.Generator().manual_seed(0)
    xs = [torch.randn((*shape, width), generator=generator) for shape in shapes]

    def run(packed: bool) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            out = one(xs, packed=packed)
        sum(x.square().mean() for x in out).backward()

    runs = {name: partial(run, name == "packed") for name in ("separate", "packed")}
    seconds, _ = interleave(runs, rounds + 1)
    return {
        name: {
            "cpu_ms": spread([1000 * s for s in values[1:]], 1),
            "ratio": ratios(values[1:], seconds["separate"][1:]),
        }
        for name, values in seconds.items()
    }


def rule(heads: int, channels: int, dtype: Any, rounds: int) -> dict[str, Any]:
    """Time `plain` against `sdpa` over lengths, at batches of equally many tokens."""
    from dinoforge.models.attention import attend

    result = {}
    for length in LENGTHS:
        shapes = ((TOKENS // length, length),)
        qkv, gradient = draw(shapes[0][0] * length, heads, channels, dtype)
        runs = {
            name: partial(
                both_directions, partial(attend, shapes=shapes, backend=name), qkv, gradient
            )
            for name in ("sdpa", "plain")
        }
        seconds, _ = interleave(runs, rounds + 1)
        result[str(length)] = ratios(seconds["plain"][1:], seconds["sdpa"][1:])
    return result


def show(figures: dict[str, Any]) -> None:
    for part in ("ways", "block"):
        for where, entries in figures[part].items():
            print(f"\n{part}: {where}")
            rows = [
                [
                    name,
                    f"{one['cpu_ms']['median']:.1f}",
                    f"{one['ratio']['median']:.2f} "
                    f"[{one['ratio']['min']:.2f}..{one['ratio']['max']:.2f}]",
                    f"{one['difference']:.0e}" if "difference" in one else "",
                ]
                for name, one in entries.items()
            ]
            print_table(["way", "CPU ms", "ratio", "difference"], rows)
    print("\nrule: plain / sdpa by length")
    columns = list(figures["rule"])
    print_table(
        ["tokens", *columns],
        [
            [n, *(f"{figures['rule'][c][str(n)]['median']:.2f}" for c in columns)]
            for n in map(str, LENGTHS)
        ],
    )


if __name__ == "__main__":
    main()
