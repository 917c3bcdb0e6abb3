package subject

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/lifeboat-dev/lifeboat/e2e/bench/content"
	"github.com/lifeboat-dev/lifeboat/experiments/matrix"
)

const (
	// countsKey is a hash with what was counted for each key.
	countsKey = "counts"
	// batch is how many pages are written before their answers are read.
	batch = 256
	// portions is how often a second a part of the memory is rewritten.
	portions = 10
)

// redis is a client of Debian's redis. Each page of its memory is a value, which begins
// with its version.
type redis struct {
	cell      matrix.Cell
	pool      pool[*resp]
	version   uint32
	next      int
	rewritten atomic.Int64
}

func newRedis(cell matrix.Cell, dial Dial, address string) *redis {
	return &redis{cell: cell, pool: pool[*resp]{dial: func(ctx context.Context) (*resp, error) { return dialRESP(ctx, dial, address) }}}
}

func (r *redis) pages() int { return int(r.cell.Bytes() / content.PageSize) }

func (r *redis) Read(ctx context.Context) error {
	return r.pool.with(ctx, func(conn *resp) error {
		return conn.do(ctx, "EXISTS", countsKey)
	})
}

func (r *redis) Add(ctx context.Context, key string) error {
	return r.pool.with(ctx, func(conn *resp) error {
		return conn.do(ctx, "HINCRBY", countsKey, key, "1")
	})
}

func (r *redis) Prepare(ctx context.Context) error {
	if err := r.store(ctx, 0, r.pages(), 0); err != nil {
		return fmt.Errorf("fill redis: %w", err)
	}
	return nil
}

// store writes some pages in a version.
func (r *redis) store(ctx context.Context, first, count int, version uint32) error {
	return r.pool.with(ctx, func(conn *resp) error {
		defer conn.bound(ctx)()
		for done := 0; done < count; done += batch {
			now := min(batch, count-done)
			for i := range now {
				number := (first + done + i) % r.pages()
				text := binary.LittleEndian.AppendUint32(make([]byte, 0, 4+valueSize), version)
				conn.send([]byte("SET"), pageKey(number), append(text, value(r.cell.Content, number, version)...))
			}
			if err := conn.flush(); err != nil {
				return err
			}
			for range now {
				if _, err := conn.reply(); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func pageKey(number int) []byte { return strconv.AppendInt([]byte("page:"), int64(number), 10) }

func (r *redis) Rewrite(ctx context.Context) {
	ticker := time.NewTicker(time.Second / portions)
	defer ticker.Stop()
	count := r.pages() * percent / 100 / portions
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if r.next < count { // once round
			r.version++
		}
		limited, cancel := context.WithTimeout(ctx, rewriteTimeout)
		if r.store(limited, r.next, count, r.version) == nil {
			r.next = (r.next + count) % r.pages()
			r.rewritten.Add(int64(count) * content.PageSize)
		}
		cancel()
	}
}

// rewriteTimeout bounds the rewriting of one portion.
const rewriteTimeout = time.Second

func (r *redis) Counts(ctx context.Context) (map[string]int, error) {
	counts := map[string]int{}
	err := r.pool.with(ctx, func(conn *resp) error {
		defer conn.bound(ctx)()
		conn.send([]byte("HGETALL"), []byte(countsKey))
		if err := conn.flush(); err != nil {
			return err
		}
		n, err := conn.array()
		if err != nil {
			return err
		}
		for range n / 2 {
			key, keyErr := conn.reply()
			count, countErr := conn.reply()
			if err := errors.Join(keyErr, countErr); err != nil {
				return err
			}
			if counts[string(key)], err = strconv.Atoi(string(count)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read redis' counts: %w", err)
	}
	return counts, nil
}

func (r *redis) Rewritten(context.Context) (int64, error) { return r.rewritten.Load(), nil }

func (r *redis) Check(ctx context.Context) (wrong int, err error) {
	err = r.pool.with(ctx, func(conn *resp) error {
		defer conn.bound(ctx)()
		for first := 0; first < r.pages(); first += batch {
			now := min(batch, r.pages()-first)
			for i := range now {
				conn.send([]byte("GET"), pageKey(first+i))
			}
			if err := conn.flush(); err != nil {
				return err
			}
			for i := range now {
				text, err := conn.reply()
				if err != nil && !errors.Is(err, errNil) {
					return err
				}
				if !r.right(first+i, text) {
					wrong++
				}
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("check redis' memory: %w", err)
	}
	return wrong, nil
}

// right says whether a value is that of the page in the version that it names.
func (r *redis) right(number int, text []byte) bool {
	if len(text) != 4+valueSize {
		return false
	}
	return bytes.Equal(text[4:], value(r.cell.Content, number, binary.LittleEndian.Uint32(text)))
}

func (r *redis) Close() { r.pool.close() }
