"""Asking the node's init for a restart."""

import pytest

from confine.drivers import boot
from confine.errors import StepError


def test_a_reboot_asks_init_once_and_says_so_when_that_fails(tmp_path):
    asked = tmp_path / "asked"
    boot.Boot(["sh", "-c", f"echo x >>{asked}"]).reboot(None)
    assert asked.read_text() == "x\n"
    with pytest.raises(StepError, match="sh failed .* no way"):
        boot.Boot(["sh", "-c", "echo no way >&2; exit 3"]).reboot(None)
    with pytest.raises(StepError, match="no nosuchprogram program"):
        boot.Boot(["nosuchprogram"]).reboot(None)
