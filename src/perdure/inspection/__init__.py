"""Find, decode, list, query, compare and check the structures in any stable memory."""
