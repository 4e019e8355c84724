"""The seeds' experiment, retold: a map filled by large messages, native stable memory beside host calls."""
