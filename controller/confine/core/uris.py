"""References between documents: relative to absolute. MicroPython has no urllib."""


def _without_dots(path: str) -> str:
    """`path` with "." and ".." segments worked out; never above the root."""
    kept: "list[str]" = []
    segments = path.split("/")
    for segment in segments:
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/".join(kept)


def join(base: str, reference: str) -> str:
    """`reference` as the document at the absolute URI `base` means it (RFC 3986, 5.2, for hierarchical URIs)."""
    if not reference:
        return base
    if "://" in reference.split("?", 1)[0]:
        return reference
    scheme, mark, rest = base.partition("://")
    if not mark:
        return reference
    if reference.startswith("//"):
        return scheme + ":" + reference
    authority, _, path = rest.partition("/")
    directory = path.split("?", 1)[0].rpartition("/")[0]
    if reference.startswith("/"):
        path = reference
    else:
        path = "/" + directory + ("/" if directory else "") + reference
    path, mark, query = path.partition("?")
    return scheme + "://" + authority + _without_dots(path) + mark + query


def item(uri: str) -> str:
    """The part of a sliver's URI that says which sliver it is: two addresses of one registry differ before it."""
    cut = uri.rfind("/slivers/")
    return uri[cut:] if cut >= 0 else uri
