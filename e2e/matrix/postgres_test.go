package matrix

import (
	"context"
	_ "embed"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/lifeboat-dev/lifeboat/e2e/observe"
)

const (
	postgresPort = 5432
	stockItems   = 10_000
	// nobody is the user "nobody" of every Debian.
	nobody = 65534
)

//go:embed programs/postgres.sh
var postgresSh string

// postgres has its data in an emptyDir volume, where a start after a crash would
// find them too: that none took place shows in what a crash does not leave.
type postgres struct {
	started    string // the moment of the server's start
	stock      string // a digest of what never changes
	background []string
}

// background are the processes that a server always has beside its clients'.
var background = []string{"autovacuum launcher", "background writer", "checkpointer", "logical replication launcher", "walwriter"}

func (p *postgres) setup() setup {
	// It refuses to be root's.
	return setup{port: postgresPort, command: []string{"bash", "-c", postgresSh}, user: nobody}
}

func (p *postgres) numbers() []number { return []number{{"rows", 0}} }

func (p *postgres) fill(ctx context.Context, s *subject) error {
	var db *postgresSession
	// Its port is open before it has started.
	err := observe.Until(ctx, "PostgreSQL lets a client in", func(ctx context.Context) (bool, string, error) {
		var err error
		db, err = p.connect(ctx, s)
		return err == nil, "a connection", err
	})
	if err != nil {
		return err
	}
	defer db.Close()
	_, err = db.conn.Exec(ctx, fmt.Sprintf(`
		CREATE TABLE stock (item int PRIMARY KEY, name text NOT NULL, sold int NOT NULL DEFAULT 0);
		INSERT INTO stock SELECT i, md5(i::text) FROM generate_series(1, %d) AS i;
		CREATE TABLE sales (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, item int NOT NULL, at timestamptz NOT NULL DEFAULT now());
		CREATE UNLOGGED TABLE scratch AS SELECT i, md5(i::text) AS text FROM generate_series(1, 1000) AS i;`, stockItems))
	if err != nil {
		return fmt.Errorf("fill the database: %w", err)
	}
	if p.started, err = db.text("SELECT pg_postmaster_start_time()::text"); err != nil {
		return err
	}
	if p.stock, err = db.text(digestOfStock); err != nil {
		return err
	}
	// The launcher of logical replication and the like start a moment later.
	return observe.Until(ctx, "PostgreSQL's processes run", func(context.Context) (bool, string, error) {
		p.background, err = db.processes()
		return len(p.background) == len(background), strings.Join(p.background, ", "), err
	})
}

const digestOfStock = "SELECT md5(string_agg(item || name, ',' ORDER BY item)) FROM stock"

func (p *postgres) open(ctx context.Context, s *subject) (session, error) { return p.connect(ctx, s) }

func (p *postgres) connect(ctx context.Context, s *subject) (*postgresSession, error) {
	config, err := pgx.ParseConfig("postgres://postgres@" + net.JoinHostPort(s.pod.Status.PodIP, strconv.Itoa(postgresPort)) + "/postgres?sslmode=disable")
	if err != nil {
		return nil, err
	}
	config.DialFunc = s.cluster.Dial
	dial, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	conn, err := pgx.ConnectConfig(dial, config)
	if err != nil {
		return nil, err
	}
	return &postgresSession{ctx, conn}, nil
}

// postgresSession is a client's connection, which ends with ctx.
type postgresSession struct {
	ctx  context.Context
	conn *pgx.Conn
}

// step sells something: one transaction with a row more in one table, and a
// change in another.
func (p *postgresSession) step() ([]int64, error) {
	ctx, cancel := context.WithTimeout(p.ctx, answerLimit)
	defer cancel()
	var id int64
	err := p.conn.QueryRow(ctx, `
		WITH sold AS (UPDATE stock SET sold = sold + 1 WHERE item = $1 RETURNING item)
		INSERT INTO sales (item) SELECT item FROM sold RETURNING id`, 1+rand.IntN(stockItems)).Scan(&id)
	return []int64{id}, err
}

func (p *postgresSession) ping() error {
	_, err := p.text("SELECT 'here'")
	return err
}

func (p *postgresSession) Close() error {
	ctx, cancel := context.WithTimeout(p.ctx, answerLimit)
	defer cancel()
	return p.conn.Close(ctx)
}

// text asks for one text.
func (p *postgresSession) text(query string) (string, error) {
	ctx, cancel := context.WithTimeout(p.ctx, answerLimit)
	defer cancel()
	var text string
	if err := p.conn.QueryRow(ctx, query).Scan(&text); err != nil {
		return "", fmt.Errorf("%s: %w", query, err)
	}
	return text, nil
}

// processes are the server's processes beside its clients', each with its PID.
func (p *postgresSession) processes() ([]string, error) {
	ctx, cancel := context.WithTimeout(p.ctx, answerLimit)
	defer cancel()
	rows, err := p.conn.Query(ctx, "SELECT backend_type || ' ' || pid FROM pg_stat_activity WHERE backend_type = ANY($1) ORDER BY 1", background)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func (p *postgres) mark() string { return "connection received" }

func (p *postgres) check(t *testing.T, s *subject) {
	db, err := p.connect(s.deadline(t), s)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, c := range []struct{ what, query, want string }{
		{"the server started at", "SELECT pg_postmaster_start_time()::text", p.started},
		{"the digest of what never changed is", digestOfStock, p.stock},
		// After a crash, the sequence would have left some out, and the table would be empty.
		{"the sales without a gap are", "SELECT (count(*) = max(id))::text FROM sales", "true"},
		{"every sale is in both tables:", "SELECT ((SELECT sum(sold) FROM stock) = (SELECT count(*) FROM sales))::text", "true"},
		{"rows of a table that no crash leaves:", "SELECT count(*)::text FROM scratch", "1000"},
		{"wrong rows of it:", "SELECT count(*)::text FROM scratch WHERE text <> md5(i::text)", "0"},
		{"reload of the configuration:", "SELECT pg_reload_conf()::text", "true"},
	} {
		if got, err := db.text(c.query); err != nil || got != c.want {
			t.Errorf("%s %s, want %s (%v)", c.what, got, c.want, err)
		}
	}
	if processes, err := db.processes(); err != nil || !slices.Equal(processes, p.background) {
		t.Errorf("beside its clients', the server has the processes %v, had %v (%v)", processes, p.background, err)
	}
	// The checkpointer has to do this, and to tell by shared memory that it has.
	if _, err := db.conn.Exec(s.deadline(t), "CHECKPOINT"); err != nil {
		t.Errorf("CHECKPOINT: %v", err)
	}
	if _, err := db.conn.Exec(s.deadline(t), "VACUUM (ANALYZE, PARALLEL 2) stock"); err != nil {
		t.Errorf("VACUUM: %v", err)
	}
	p.checkBackends(t, s, db)
	log, err := s.logs(s.deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, sign := range []string{"database system was interrupted", "database system is ready to accept", "automatic recovery in progress", "PANIC", "was terminated by signal"} {
		if strings.Contains(log, sign) {
			t.Errorf("PostgreSQL's log tells of a start or a crash: %q\n%s", sign, log)
		}
	}
}

// checkBackends checks that each new client gets a process, and that those of the
// clients of before the loss end.
func (p *postgres) checkBackends(t *testing.T, s *subject, db *postgresSession) {
	pids := map[string]bool{}
	for range newClients {
		other, err := p.connect(s.deadline(t), s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { other.Close() })
		pid, err := other.text("SELECT pg_backend_pid()::text")
		if err != nil {
			t.Fatal(err)
		}
		pids[pid] = true
	}
	if len(pids) != newClients {
		t.Errorf("%d clients have %d processes", newClients, len(pids))
	}
	err := observe.Until(s.deadline(t), "the old clients' processes have ended", func(context.Context) (bool, string, error) {
		count, err := db.text("SELECT count(*)::text FROM pg_stat_activity WHERE backend_type = 'client backend'")
		return count == strconv.Itoa(newClients+1), count + " processes of clients", err
	})
	if err != nil {
		t.Error(err)
	}
}
