# A database in an emptyDir volume, made when there is none. The first argument is how
# much memory it keeps its tables in.
set -eu
bin=$(echo /usr/lib/postgresql/*/bin)
if [ ! -e /data/pg/PG_VERSION ]; then
	"$bin/initdb" --pgdata=/data/pg --username=postgres --auth=trust --no-locale --encoding=UTF8 --no-sync
	echo 'host all all all trust' >>/data/pg/pg_hba.conf
fi
# Autovacuum would rewrite pages at moments that nobody chose. Shared memory beside the
# buffers lies in files: runc's own checkpoint cannot take /dev/shm along.
exec "$bin/postgres" -D /data/pg -c listen_addresses='*' -c unix_socket_directories=/data -c max_connections=400 \
	-c shared_buffers="$1" -c autovacuum=off -c dynamic_shared_memory_type=mmap -c max_wal_size=256MB -c port="${2:-5432}"
