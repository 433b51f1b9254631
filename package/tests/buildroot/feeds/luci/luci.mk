# Stands in for LuCI's luci.mk: pages and rights, without translations (which need its compiler).
define Package/$(PKG_NAME)
  DEPENDS:=$(LUCI_DEPENDS)
  PKGARCH:=$(LUCI_PKGARCH)
endef

define Package/$(PKG_NAME)/install
	$(INSTALL_DIR) $(1)/www
	$(CP) ./htdocs/* $(1)/www/
	$(CP) ./root/* $(1)/
endef

include $(INCLUDE_DIR)/package.mk
$(eval $(call BuildPackage,$(PKG_NAME)))
