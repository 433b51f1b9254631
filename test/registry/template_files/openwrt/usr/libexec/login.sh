#!/bin/sh
# Whoever reaches the sliver's console is the node's administrator.
cat /etc/banner
cd /root && exec /bin/ash --login
