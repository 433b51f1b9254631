# Stands in for OpenWrt's package.mk: `make install DEST=...` does what the package's install step says, `make shown`
# prints what the build would write into its control file, `make script SCRIPT=prerm` one of its scripts. Nothing is
# compiled, packed or signed.
define Package/Default
  DEPENDS:=
  EXTRA_DEPENDS:=
  PKGARCH:=
endef

define BuildPackage
$(eval $(call Package/Default))
$(eval $(call Package/$(1)))

.PHONY: install shown script
install:
$(call Package/$(1)/install,$$(DEST))

shown:
	$$(info Package: $(1))
	$$(info Version: $(PKG_VERSION)-r$(PKG_RELEASE))
	$$(info Architecture: $(PKGARCH))
	$$(info Depends: $(DEPENDS))
	$$(info Extra: $(EXTRA_DEPENDS))
	$$(info License: $(PKG_LICENSE))
	$$(info Maintainer: $(PKG_MAINTAINER))
	$$(info Conffiles: $(strip $(Package/$(1)/conffiles)))
	@:
script:
	$$(info $$(Package/$(1)/$$(SCRIPT)))
	@:
endef
