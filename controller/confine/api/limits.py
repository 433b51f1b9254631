"""Every bound of the node API, in one place. Sizes in bytes, times in seconds."""

CONNECTIONS = 32  # of these the oldest idle, else the slowest, makes room for a new one
HEAD = 8 * 1024
FIELDS = 64  # header fields of one request
BODY = 4 * 1024
BACKLOG = 64  # connections that the kernel holds until they are accepted

HEAD_S = 10.0  # from the first byte, or from connecting, to the whole request, TLS handshake included
IDLE_S = 30.0  # between requests
ANSWER_S = 60.0  # to take one answer
LINGER_S = 2.0  # to read the last answer before the connection is cut
LINGER = 64 * 1024  # what a client may still send after its last answer

REFRESH_S = 60.0  # between two requests to read the registry (node API)
STATUS_S = 1.0  # the node's status is asked for at most this often

COMPRESSED_FROM = 200  # shorter bodies are sent as they are, as the registry does
PAGES = 2 * 1024 * 1024  # rendered answers kept in memory
