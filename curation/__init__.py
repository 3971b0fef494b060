"""The curation of dinoforge: one module a stage; `curation.pipeline` lists them in order."""
