"""What every command needs around its work: console, files, runs, devices, processes, rendered results."""
