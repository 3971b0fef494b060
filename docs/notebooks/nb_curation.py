# %% [markdown]
# # Read a curation report
#
# What was kept, what was dropped and why, from the ledger of a finished curation, with pictures. The notebook reads the run of `dinoforge quickstart`; set `DINOFORGE_RUN` for
# another one. It is stored as text: `jupytext --to ipynb` turns it into a notebook.

# %%
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from dinoforge.curated import ledger_path, resolve_shard, summary_path
from dinoforge.images import decode
from dinoforge.shards.reading import RangeReader

run = Path(os.environ.get("DINOFORGE_RUN", "runs/quickstart")) / "curation"

# %% [markdown]
# ## The funnel
#
# One row per image, one reason per row: the counts add up to the images that were read.

# %%
ledger = pd.read_parquet(ledger_path(run)).set_index("image_id")
funnel = ledger.groupby(["decision", "reason"]).size().rename("images").reset_index()
assert funnel["images"].sum() == len(ledger)
funnel

# %% [markdown]
# By source, to see which one brings what:

# %%
pd.crosstab(ledger["source"], ledger["reason"])

# %% [markdown]
# ## Look at pictures
#
# The ledger states where the bytes of every image are: a file or tar, and an offset.

# %%
reader = RangeReader()


def picture(image_id, side=96):
    row = ledger.loc[image_id]
    data = reader.read(resolve_shard(run, row["shard"]), int(row["offset"]), int(row["size"]))
    return Image.fromarray(decode(data)).resize((side, side))


def sheet(rows, side=96):
    """One picture of rows of pictures."""
    page = Image.new("RGB", (side * max(map(len, rows), default=1), side * max(len(rows), 1)))
    for y, row in enumerate(rows):
        for x, image_id in enumerate(row):
            page.paste(picture(image_id, side), (x * side, y * side))
    return page


# %% [markdown]
# Near-duplicates: each dropped image below the one that was kept in its place, the least similar pairs first. Pairs just above the threshold are where a wrong threshold shows.

# %%
near = ledger[ledger["reason"] == "near_duplicate"].sort_values("similarity").head(8)
near[["key", "duplicate_of", "similarity", "planted_from", "edit"]]

# %%
sheet([near["duplicate_of"].astype(int), near.index])

# %% [markdown]
# ## Why was this image dropped?
#
# `dinoforge explain RUN IMAGE` prints the same in sentences.

# %%
dropped = ledger[ledger["decision"] == "dropped"]
dropped.iloc[len(dropped) // 2].dropna()

# %% [markdown]
# ## Is the threshold right?
#
# The quickstart planted edited copies, so precision and recall of its own deduplication are known for every threshold.

# %%
summary = json.loads(summary_path(run).read_text(encoding="utf-8"))
curve = pd.DataFrame(summary["check"]["curve"]).set_index("threshold")
curve[np.isclose(curve.index * 100 % 5, 0, atol=1e-6)]

# %% [markdown]
# ## What the seeds retrieved
#
# The first column is a seed; behind it the images that it retrieved with the best scores.

# %%
retrieved = ledger[ledger["reason"] == "retrieved"].sort_values("score", ascending=False)
seeds = retrieved["seed_id"].value_counts().head(5).index.astype(int)
sheet([[seed, *retrieved.index[retrieved["seed_id"] == seed][:7]] for seed in seeds])
