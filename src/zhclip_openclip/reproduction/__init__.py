"""Running the published tables on this machine: what there is to run, how long it takes, one cell after another."""
