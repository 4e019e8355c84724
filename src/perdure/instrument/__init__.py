"""Module to Module: validate, meter, link the native System API."""
