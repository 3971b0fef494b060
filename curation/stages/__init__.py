"""One module per stage; `dinoforge.curation.pipeline` lists them in order."""
