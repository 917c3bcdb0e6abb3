# A database in an emptyDir volume, made when there is none.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -e /data/pg/PG_VERSION ]; then
	"$bin/initdb" --pgdata=/data/pg --username=postgres --auth=trust --no-locale --encoding=UTF8 --no-sync
	echo 'host all all all trust' >>/data/pg/pg_hba.conf
fi
exec "$bin/postgres" -D /data/pg -c listen_addresses='*' -c unix_socket_directories=/data \
	-c log_connections=on -c autovacuum_naptime=1s
