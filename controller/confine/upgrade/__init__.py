"""Upgrades on the device: slots, their writing, trials and the way back (docs/developer/slots.md)."""
