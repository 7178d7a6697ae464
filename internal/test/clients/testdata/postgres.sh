PATH=$BIN:$PATH
export PGHOST="$PWD" PGUSER=postgres PGDATABASE=postgres

start() { pg_ctl -D data -l log -w -t 300 start >/dev/null || { cat log >&2; exit 1; }; }

# Every transaction of pgbench moves the same amount in four tables.
balanced() {
	psql -X -A -t -c "SELECT CASE WHEN b = t AND t = a AND a = h THEN 'balanced' ELSE format('%s %s %s %s', b, t, a, h) END FROM
		(SELECT sum(bbalance) AS b FROM pgbench_branches) AS branches,
		(SELECT sum(tbalance) AS t FROM pgbench_tellers) AS tellers,
		(SELECT sum(abalance) AS a FROM pgbench_accounts) AS accounts,
		(SELECT coalesce(sum(delta), 0) AS h FROM pgbench_history) AS history"
}

initdb -k -A trust -U postgres --no-locale -E UTF8 --wal-segsize=1 -D data >initdb.log
cat >>data/postgresql.conf <<END
listen_addresses = ''
unix_socket_directories = '$PWD'
shared_buffers = 16MB
min_wal_size = 2MB
max_wal_size = 8MB
END
start
mkdir space
psql -X -q -c "CREATE TABLESPACE space LOCATION '$PWD/space'"
pgbench -i -q -s 1 --tablespace=space 2>init.log

pgbench -n -c 4 -j 2 -t "$TRANSACTIONS" >bench.log
psql -X -A -t -c 'SELECT count(*) FROM pgbench_history'
balanced

echo "-- killed at work"
pgbench -n -c 4 -j 2 -T 300 >killed.log 2>&1 &
until [ "$(psql -X -A -t -c 'SELECT count(*) FROM pgbench_history')" -gt $((TRANSACTIONS * 5)) ]; do sleep 0.1; done
pg_ctl -D data stop -m immediate >/dev/null
wait
start
balanced
grep -q 'automatic recovery in progress' log

echo "-- large files in pieces"
psql -X -q -c 'CREATE TABLE large AS SELECT i, md5(i::text) AS text FROM generate_series(1, 100000) AS i; CREATE INDEX ON large (text);'
psql -X -q -c 'DELETE FROM large WHERE i % 3 = 0' -c 'VACUUM large' -c 'REINDEX TABLE large' -c 'CLUSTER large USING large_text_idx'
psql -X -A -t -c 'SELECT count(*), sum(i), min(text), max(text) FROM large'
vacuumdb -q -a -z
psql -X -q -c 'CREATE EXTENSION amcheck'
psql -X -A -t -c "SELECT count(bt_index_parent_check(i.indexrelid, true)) > 100 FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
	JOIN pg_am AS am ON am.oid = c.relam WHERE am.amname = 'btree' AND c.relpersistence = 'p' AND i.indisvalid"
psql -X -c 'COPY (SELECT * FROM large ORDER BY i) TO STDOUT' | sha256sum
pg_ctl -D data stop -m fast >/dev/null
pg_checksums --check -D data >/dev/null
