package subject

import (
	"bytes"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

// postgresPage is the unit of PostgreSQL's memory. Half of each page is left free, so
// that a row that is rewritten stays in its page.
const postgresPage = 8192

// postgres is a client of Debian's PostgreSQL. Its memory is a table that it holds in its
// shared buffers, with a row in each page.
type postgres struct {
	cell      matrix.Cell
	pool      pool[*postgresConn]
	version   uint32
	next      int
	rewritten atomic.Int64
}

// postgresConn closes without a word, as a client does that gives up.
type postgresConn struct{ *pgx.Conn }

func (c *postgresConn) Close() error {
	return c.PgConn().Conn().Close()
}

func newPostgres(cell matrix.Cell, dial Dial, address string) (*postgres, error) {
	config, err := pgx.ParseConfig("postgres://postgres@" + address + "/postgres?sslmode=disable")
	if err != nil {
		return nil, fmt.Errorf("connect with PostgreSQL: %w", err)
	}
	config.DialFunc = pgconn.DialFunc(dial)
	return &postgres{cell: cell, pool: pool[*postgresConn]{dial: func(ctx context.Context) (*postgresConn, error) {
		conn, err := pgx.ConnectConfig(ctx, config)
		return &postgresConn{conn}, err
	}}}, nil
}

func (p *postgres) rows() int { return int(p.cell.Bytes() / postgresPage) }

func (p *postgres) exec(ctx context.Context, query string, args ...any) error {
	return p.pool.with(ctx, func(conn *postgresConn) error {
		_, err := conn.Exec(ctx, query, args...)
		return err
	})
}

func (p *postgres) Read(ctx context.Context) error { return p.exec(ctx, "SELECT 1") }

func (p *postgres) Add(ctx context.Context, key string) error {
	return p.exec(ctx, "INSERT INTO counts (key, n) VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET n = counts.n + 1", key)
}

// Prepare makes the tables. That of the memory is not logged: what is measured is memory,
// and its log would fill the disk.
func (p *postgres) Prepare(ctx context.Context) error {
	err := p.pool.with(ctx, func(conn *postgresConn) error {
		// Several statements at once are one transaction.
		_, err := conn.Exec(ctx, `
			CREATE EXTENSION pg_prewarm;
			CREATE TABLE counts (key text PRIMARY KEY, n int NOT NULL);
			CREATE UNLOGGED TABLE memory (number int NOT NULL, version int NOT NULL, bytes bytea NOT NULL) WITH (fillfactor = 50);
			ALTER TABLE memory ALTER bytes SET STORAGE PLAIN`)
		if err != nil {
			return err
		}
		number := -1
		_, err = conn.CopyFrom(ctx, pgx.Identifier{"memory"}, []string{"number", "version", "bytes"}, pgx.CopyFromFunc(func() ([]any, error) {
			if number++; number == p.rows() {
				return nil, nil
			}
			return []any{number, 0, value(p.cell.Content, number, 0)}, nil
		}))
		if err != nil {
			return err
		}
		// What is loaded in one go is not kept in the buffers.
		_, err = conn.Exec(ctx, "CREATE UNIQUE INDEX ON memory (number); ANALYZE memory; SELECT pg_prewarm('memory')")
		return err
	})
	if err != nil {
		return fmt.Errorf("fill PostgreSQL: %w", err)
	}
	return nil
}

func (p *postgres) Rewrite(ctx context.Context) {
	ticker := time.NewTicker(time.Second / portions)
	defer ticker.Stop()
	count := p.rows() * percent / 100 / portions
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if p.next < count { // once round
			p.version++
		}
		numbers, values := make([]int, count), make([][]byte, count)
		for i := range count {
			numbers[i] = (p.next + i) % p.rows()
			values[i] = value(p.cell.Content, numbers[i], p.version)
		}
		limited, cancel := context.WithTimeout(ctx, rewriteTimeout)
		err := p.exec(limited, `UPDATE memory SET version = $1, bytes = fresh.bytes
			FROM unnest($2::int[], $3::bytea[]) AS fresh (number, bytes) WHERE memory.number = fresh.number`, p.version, numbers, values)
		cancel()
		if err == nil {
			p.next = (p.next + count) % p.rows()
			p.rewritten.Add(int64(count) * postgresPage)
		}
	}
}

func (p *postgres) Counts(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	err := p.pool.with(ctx, func(conn *postgresConn) error {
		rows, err := conn.Query(ctx, "SELECT key, n FROM counts")
		if err != nil {
			return err
		}
		var key string
		var n int
		_, err = pgx.ForEachRow(rows, []any{&key, &n}, func() error {
			counts[key] = n
			return nil
		})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read PostgreSQL's counts: %w", err)
	}
	return counts, nil
}

func (p *postgres) Rewritten(context.Context) (int64, error) { return p.rewritten.Load(), nil }

// Check counts the rows that are as they must be: those of an unlogged table are gone
// after a crash.
func (p *postgres) Check(ctx context.Context) (int, error) {
	right := 0
	err := p.pool.with(ctx, func(conn *postgresConn) error {
		rows, err := conn.Query(ctx, "SELECT number, version, bytes FROM memory")
		if err != nil {
			return err
		}
		var number int
		var version uint32
		var got []byte
		_, err = pgx.ForEachRow(rows, []any{&number, &version, &got}, func() error {
			if bytes.Equal(got, value(p.cell.Content, number, version)) {
				right++
			}
			return nil
		})
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("check PostgreSQL's memory: %w", err)
	}
	return p.rows() - right, nil
}

func (p *postgres) Close() { p.pool.close() }
