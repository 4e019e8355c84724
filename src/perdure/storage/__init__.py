"""The only writer of files: images, commit log, checkpoints, snapshots."""
