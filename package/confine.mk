# SPDX-License-Identifier: GPL-3.0-or-later
# What the packages of this feed share. The version is that of the sources. The release counts the commits, so that
# each build is newer for apk and opkg than the one before; 0, older than all, where they cannot be counted (no git, a
# shallow clone): set CONFINE_RELEASE then.
CONFINE_SOURCE:=$(realpath $(CURDIR)/../..)
# As root, git refuses somebody else's repository unless told that this is meant.
CONFINE_GIT:=git -c safe.directory=* -C $(CONFINE_SOURCE)
CONFINE_RELEASE?=$(shell [ "$$($(CONFINE_GIT) rev-parse --is-shallow-repository 2>/dev/null)" = false ] \
	&& $(CONFINE_GIT) rev-list --count HEAD)

PKG_VERSION:=$(shell sed -n 's/^__version__ = "\(.*\)"$$/\1/p' $(CONFINE_SOURCE)/controller/confine/__init__.py)
PKG_RELEASE:=$(or $(CONFINE_RELEASE),0)
PKG_MAINTAINER:=The confine-node developers <dev@example.net>
PKG_LICENSE:=GPL-3.0-or-later
PKG_LICENSE_FILES:=

CONFINE_SLIM:=PYTHONPATH=$(CONFINE_SOURCE) python3 -B -m package.slim

# $(call confine_init,DIRECTORY,SCRIPT...): init scripts of the repository.
define confine_init
	$(INSTALL_DIR) $(1)/etc/init.d
	$(INSTALL_BIN) $(addprefix $(CONFINE_SOURCE)/files/etc/init.d/,$(2)) $(1)/etc/init.d/
endef
