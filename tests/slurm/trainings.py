"""A training of milliseconds a step, and what it asks of a cluster."""

TRAINING = (
    *("batch_size=4", "threads=1", "device=cpu"),
    *("model.width=32", "model.depth=1", "model.heads=2", "model.patch_size=8"),
    *("crops.global_size=32", "crops.local_size=16", "crops.num_local=2"),
    *(
        f"{head}_head.{key}"
        for head in ("dino", "ibot")
        for key in ("prototypes=32", "bottleneck=8", "hidden=16")
    ),
)

PROFILE = """\
default: {partition: cpu, memory_gb: 0.5, minutes: 5}
stages: {train: {memory_gb: 2, minutes: 15}, evaluate: {memory_gb: 2}}
probe: false
signal_before_s: 30
"""
