"""Candid: values, types, `.did` files, text form, subtyping."""
