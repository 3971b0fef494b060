"""Several processes that train one network: launch, process group, sharding, checkpoints."""
