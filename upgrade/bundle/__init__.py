"""The operator's side of upgrades: makes, signs, checks and publishes bundles (docs/user/upgrade.md)."""
