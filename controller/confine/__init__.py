"""The on-device controller of a community-network testbed node."""

__version__ = "0.1.0"
