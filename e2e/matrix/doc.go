// Package matrix tests Lifeboat with programs that nobody here wrote: Debian's
// redis, memcached, PostgreSQL, nginx, Python, Java and bash. Each runs in a
// protected pod, all on one node, with clients at work. When each has as many
// generations in a row as asked for, the node loses its power, and what comes back
// is judged by its behaviour.
//
//	go test -timeout 30m ./e2e/matrix
//	go test -timeout 60m ./e2e/matrix -v -generations 50
//	go test -timeout 30m ./e2e/matrix -programs redis,nginx
//
// With LIFEBOAT_LAB_ATTACH=1 it uses the running cluster that LIFEBOAT_LAB_NAME
// names ("lab" when unset), and leaves it running. It needs root; -short skips it.
package matrix
