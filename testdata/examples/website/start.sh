#!/bin/sh
# Puts $ADDR into nginx's configuration and becomes nginx; runs anything else as it is.
set -eu
if [ "$1" = nginx ]; then
	sed "s/@ADDR@/$ADDR/" /etc/nginx/nginx.conf.in > /run/nginx.conf
	set -- nginx -c /run/nginx.conf -g 'daemon off;'
fi
exec "$@"
