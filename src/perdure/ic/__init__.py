"""Names of the Internet Computer: principals, reject codes, the table of `ic0` functions."""
