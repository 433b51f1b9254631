"""Kernel options: what a node stands on has to be on, and what is missing is said with what it is for."""

import pytest

from firmware.openwrt import kernel
from firmware.openwrt.errors import FirmwareError
from firmware.openwrt.tests.fake_release import kernel_config

NEEDED = {"EXT4_FS": "y"}
WANTED = {"KEXEC": "trials take longer"}


def test_a_kernel_with_all_options_passes():
    assert kernel.demand(kernel.check(kernel_config(), NEEDED, WANTED)) == []


def test_each_option_that_is_off_is_named_with_what_it_is_for():
    with pytest.raises(FirmwareError) as failure:
        kernel.demand(kernel.check(kernel_config("MEMCG", "USER_NS"), NEEDED, WANTED))
    assert "CONFIG_MEMCG is off, has to be y (slivers' memory limits)" in str(failure.value)
    assert "CONFIG_USER_NS is off, has to be y (slivers without privileges)" in str(failure.value)


def test_a_module_will_do_only_where_it_is_loaded_in_time():
    config = kernel_config().replace("CONFIG_VETH=y", "CONFIG_VETH=m")
    assert kernel.check(config, NEEDED, WANTED) == []
    found = kernel.check(config.replace("CONFIG_EXT4_FS=y", "CONFIG_EXT4_FS=m"), NEEDED, WANTED)
    assert [(one.option, one.found) for one in found] == [("EXT4_FS", "m")]


def test_what_is_only_worth_having_is_a_note():
    found = kernel.check(kernel_config("KEXEC"), NEEDED, WANTED)
    assert kernel.demand(found) == ["CONFIG_KEXEC is off: trials take longer"]


def test_a_file_that_is_no_kernel_configuration_is_refused():
    with pytest.raises(FirmwareError, match="no kernel configuration"):
        kernel.check("<html>not found</html>", {}, {})
