"""The curation of dinoforge: one module per stage; `curation.pipeline` lists them in order."""
