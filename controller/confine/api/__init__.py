"""The node's own REST API: documents for pollers and people, metrics, and a way to ask for a refresh.

How it is served, and why not by a framework. The daemon runs on devices with 64 MiB of memory; what serves a request
every few minutes must cost nothing in between. Measured on CPython 3.11, beside an interpreter with ssl loaded (which
the registry client needs anyway): importing asyncio takes 5.0 MiB of resident memory and 18 ms more, and each of its
TLS connections holds a read buffer of 256 KiB, so 32 idle pollers cost 8 MiB. microdot and h11 are small, but both
would come on top: microdot brings asyncio and no bounds on connections or slow clients, h11 only the parser, and
neither is in the images. So: one thread, `select.epoll`, non-blocking sockets, and a strict parser that refuses
what the few existing clients never send (`transport.py`). Nothing beyond the interpreter's own modules is loaded,
and every bound is in one place (`limits.py`).

| module | what it does |
|---|---|
| server.py | the thread: accepts, waits, drops what is late |
| connection.py | one connection: TLS, bytes to requests, answers to bytes |
| transport.py | HTTP/1.1 as text: parsing, heads of answers |
| negotiate.py | Accept, Accept-Encoding, If-None-Match, Host |
| app.py | path and method to an answer |
| documents.py, addresses.py | what the documents say |
| pages.py, browser.py | documents as bytes, rendered once; the view for people |
| metrics.py, figures.py | /confine/api/metrics |
| openapi.py | /confine/api/openapi.json |
| certificate.py | key, certificate, request for one by the testbed's CA |
| firewall.py | 80 and 443 on the management address lead here |
"""
