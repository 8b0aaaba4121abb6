"""One module per resource: parse the request, ask index or storage, write the answer."""
