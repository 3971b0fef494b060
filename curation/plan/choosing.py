"""What the stages cost that choose images, from `components` to `export`.

The seconds are those of one thread, measured on 2026-11-30 on an EPYC core with CIFAR-10 (60,000
images of 32 pixels), 1,800 photographs of clothing and 1,000 of ImageNet.
"""

from collections.abc import Callable, Mapping, Sequence

from dinoforge.clusters.hierarchy import LevelPolicy
from dinoforge.curation.plan.cost import NOTHING, TOP_K_RATE, Cost, num_ranges
from dinoforge.curation.plan.pairs import PAIRS_PER_IMAGE
from dinoforge.curation.plan.sizes import Sizes, blocks
from dinoforge.curation.stages.clusters import MOST_HELPERS, level_policies
from dinoforge.curation.stages.duplicates.components import BATCH_IMAGES
from dinoforge.curation.stages.select import SHUFFLED_ROWS
from dinoforge.tables import BLOCK_ROWS

__all__ = ["CHOOSING_COSTS"]

# Seconds per row of the tables that one task reads as a whole, and bytes that it holds per row.
_COMPONENTS_S, _COMPONENTS_ROW = 2.0e-6, 17.0
# Share of images that have a duplicate, bytes of them, and of those that are grouped at once.
_LINKED, _LINKED_ROW, _GROUPED_ROW = 0.25, 120.0, 800.0
_CHECK_S = 0.8e-3  # per planted copy
_DECONTAMINATE_S, _DECONTAMINATE_ROW, _COMPARED_PAIR = 1.1e-6, 26.0, 250.0
_SURVIVORS_S, _SURVIVORS_ROW = 0.1e-6, 12.0
_RETRIEVE_S, _RETRIEVE_ROW = 1.8e-6, 300.0  # per candidate
_BALANCE_S, _BALANCE_ROW = 1.0e-6, 80.0
_SELECT_S, _SELECT_ROW = 3.7e-6, 1370.0  # of a block
_EXPORTED_ROW, _SHUFFLED_ROW = 32.0, 300.0  # of all exported files, of those in a file of places
# Of a block; of all images, their hashes and shards.
_LEDGER_S, _LEDGER_ROW, _EVIDENCE_ROW = 5.8e-6, 2160.0, 12.0
_EXPORT_S, _EXPORT_S_PER_BYTE = 58e-6, 2.0e-9  # per image in a shard
# Bytes per row of the tables, compressed, without the key.
_PLACES_BYTES, _LEDGER_BYTES = 58.0, 61.0
_GROUPS_BYTES, _DECISIONS_BYTES, _SLOTS_BYTES = 6.2, 4.1, 8.5
_NOTES_BYTES = 2048.0  # JSON and class of a sample in a shard, with their headers
_KMEANS_RATE = 4.0e10  # multiplications per second, as those of the cells
_SEEDED_ROWS = 4096  # that one process reads to choose first centroids
_SELECT_TOP_S = 9e-9  # per seed and image, beside the product


def _components(sizes: Sizes) -> Cost:
    rows = sizes.compared
    linked = rows * _LINKED
    held = sizes.total * _COMPONENTS_ROW + linked * _LINKED_ROW
    held += min(linked, BATCH_IMAGES) * _GROUPED_ROW
    return Cost(1, 1, rows * _COMPONENTS_S, bytes=rows * _GROUPS_BYTES, memory=held)


def _check(sizes: Sizes) -> Cost:
    copies = sizes.planted
    if not copies:
        return NOTHING
    return Cost(1, 1, copies * _CHECK_S, bytes=copies * 11.0, memory=sizes.total * 60.0)


def _decontaminate(sizes: Sizes) -> Cost:
    rows = sizes.total
    held = rows * (_DECONTAMINATE_ROW + PAIRS_PER_IMAGE * _COMPARED_PAIR)
    return Cost(1, 2, rows * _DECONTAMINATE_S, bytes=1420, memory=held)


def _survivors(sizes: Sizes) -> Cost:
    rows = sizes.total
    stored = 512 + 8.0 * (rows - sizes.planted)
    return Cost(1, 4, rows * _SURVIVORS_S, bytes=stored, memory=rows * _SURVIVORS_ROW)


def _search(sizes: Sizes) -> Cost:
    searched = [(sizes.seeds_of(name), k) for name, k in sizes.searched.items()]
    if not searched:
        return NOTHING
    dim, pool = sizes.retrieval_dim, sizes.pool
    size, seeds = sizes.config.retrieve.partition_images, [num for num, _ in searched]
    ranges = num_ranges(pool, size)
    pairs = float(sum(seeds)) * pool
    lists = [num * k * 12.0 for num, k in searched]  # id and score
    held = (min(max(seeds), BLOCK_ROWS) + min(pool, size)) * dim * 10.0
    return Cost(
        ranges * len(searched),
        2,
        product_s=pairs * (_SELECT_TOP_S + dim / TOP_K_RATE),
        flops=2 * pairs * dim,
        bytes=ranges * sum(lists),
        memory=held + max(lists),
    )


def _clusters(sizes: Sizes) -> Cost:
    policy = sizes.config.balance
    return _kmeans(sizes, level_policies(policy)) if policy.target else NOTHING


def _pool_clusters(sizes: Sizes) -> Cost:
    num, fit_rows = sizes.config.retrieve.clusters, sizes.config.balance.fit_images
    return _kmeans(sizes, [LevelPolicy(num, fit_rows=fit_rows)]) if num else NOTHING


def _kmeans(sizes: Sizes, levels: Sequence[LevelPolicy]) -> Cost:
    """Cost of all iterations that a recipe allows; most end earlier."""
    policy, num, dim = sizes.config.balance, sizes.pool, sizes.retrieval_dim
    pairs, rows, widest = 0.0, float(num), 0
    for level in levels:
        coarse = -(-level.clusters // level.split)
        most = coarse * level.fit_rows or rows
        sample = min(level.sample_share * rows, most)
        passes = min(rows, most) * policy.iterations + rows
        passes += level.resampling * (sample * policy.iterations + rows)
        pairs += passes * coarse
        if level.split > 1:
            pairs += rows * level.split * (policy.iterations + 1.0)
        rows, widest = level.clusters, max(widest, coarse)
    work = pairs * dim
    # Centroids, their products' side, float64 sums and what is read of a merge; labels twice.
    held = widest * dim * 24.0 + max(_SEEDED_ROWS * dim * 16.0, num * 20.0)
    return Cost(
        min(num_ranges(num, policy.block_images), MOST_HELPERS),
        2 + 2 * len(levels),
        product_s=work / _KMEANS_RATE,
        flops=2 * work,
        bytes=num * 16.0 + sum(level.clusters for level in levels) * (4.0 * dim + 4),
        memory=held,
    )


def _seed_clusters(sizes: Sizes) -> Cost:
    policy, dim = sizes.config.retrieve, sizes.retrieval_dim
    sets = dict.fromkeys(rule.seeds for rule in policy.rules if rule.mode == "cluster")
    seeds = [sizes.seeds_of(name) for name in sets]
    work = float(sum(seeds)) * policy.clusters * dim
    held = (max(seeds, default=0) + policy.clusters) * dim * 10.0
    return Cost(
        len(seeds),
        1,
        product_s=work / _KMEANS_RATE,
        flops=2 * work,
        bytes=sum(seeds) * 8.0,
        memory=held,
    )


def _exclude(sizes: Sizes) -> Cost:
    sets = dict.fromkeys(rule.seeds for rule in sizes.rules if rule.mode == "exclude")
    examples = [sizes.images.references[name] for name in sets]
    dim, pool, size = sizes.retrieval_dim, sizes.pool, sizes.config.retrieve.partition_images
    pairs = float(sum(examples)) * pool
    held = (max(examples, default=0) + min(pool, size)) * dim * 10.0
    return Cost(
        num_ranges(pool, size) * len(sets),
        3,
        product_s=pairs * (_SELECT_TOP_S + dim / TOP_K_RATE),
        flops=2 * pairs * dim,
        bytes=pool * 20.0 * len(sets),
        memory=held + sizes.total * 4.0,  # which images are references
    )


def _retrieve(sizes: Sizes) -> Cost:
    if sizes.config.retrieve.mode == "none":
        return NOTHING
    nearest = sum(sizes.seeds_of(name) * k for name, k in sizes.searched.items())
    drawn = sum(sizes.retrieved_by(r) for r in sizes.rules if r.mode == "cluster")
    lists = num_ranges(sizes.pool, sizes.config.retrieve.partition_images)
    slots = nearest + drawn
    return Cost(
        1,
        1,
        core_s=slots * _RETRIEVE_S + nearest * lists * 0.1e-6,
        bytes=slots * _SLOTS_BYTES,
        memory=slots * _RETRIEVE_ROW,
    )


def _balance(sizes: Sizes) -> Cost:
    if not sizes.config.balance.target:
        return NOTHING
    num, held = sizes.pool, sizes.pool * _BALANCE_ROW
    return Cost(1, 2, num * _BALANCE_S, bytes=num * 10.0, memory=held)


def _select(sizes: Sizes) -> Cost:
    rows, places = sizes.total, sizes.exported
    stored = rows * _DECISIONS_BYTES + places * (_PLACES_BYTES + sizes.images.key_bytes)
    held = min(rows, BLOCK_ROWS) * _SELECT_ROW + places * _EXPORTED_ROW
    held += min(places, SHUFFLED_ROWS) * _SHUFFLED_ROW
    return Cost(1, 2, rows * _SELECT_S, bytes=stored, memory=held)


def _export(sizes: Sizes) -> Cost:
    rows, files, images = sizes.total, sizes.exported, sizes.images
    sample = 512 + blocks(images.file_bytes) + _NOTES_BYTES
    return Cost(
        1 + sizes.shards,
        2,
        rows * _LEDGER_S + files * (_EXPORT_S + _EXPORT_S_PER_BYTE * images.file_bytes),
        bytes=files * sample + rows * (_LEDGER_BYTES + images.key_bytes),
        memory=min(rows, BLOCK_ROWS) * _LEDGER_ROW + rows * _EVIDENCE_ROW,
    )


CHOOSING_COSTS: Mapping[str, Callable[[Sizes], Cost]] = {
    "components": _components,
    "check": _check,
    "decontaminate": _decontaminate,
    "survivors": _survivors,
    "search": _search,
    "clusters": _clusters,
    "pool-clusters": _pool_clusters,
    "seed-clusters": _seed_clusters,
    "exclude": _exclude,
    "retrieve": _retrieve,
    "balance": _balance,
    "select": _select,
    "export": _export,
}
