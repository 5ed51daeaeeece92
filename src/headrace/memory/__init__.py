"""WHERE the state of sequences lives: block pool and prefix tree. Standard library only."""
